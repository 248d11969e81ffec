;; A WebAssembly program, as text: it prints one line. `magikrun image load` makes an image of it.
(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  ;; The line, from byte 16 on.
  (data (i32.const 16) "hello from WebAssembly\n")
  (func (export "_start")
    ;; Where the line is, and its length.
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.const 23))
    ;; To standard output (1), one piece; the bytes written are counted at 8.
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
