//! Every limit ends a program, with a reason that names it.

mod common;

use common::{Host, Outcome, annotate, id, skipped};
use magik_oci::{ExitReason, OciRuntime};
use oci_wasm::annotations::{DEADLINE, FUEL};
use serde_json::json;

#[track_caller]
fn ended_by(outcome: &Outcome, reason: ExitReason, code: i32, says: &str) {
    assert_eq!(outcome.exit.reason, Some(reason), "{outcome:?}");
    assert_eq!(outcome.exit.code, code, "{outcome:?}");
    let message = outcome.message.as_deref().unwrap();
    assert!(
        message.contains(says) && message.starts_with(&reason.to_string()),
        "{message}"
    );
    assert!(
        outcome.stderr.ends_with(&format!("magikrun: {message}\n")),
        "{}",
        outcome.stderr
    );
}

#[tokio::test]
async fn an_endless_loop_uses_up_its_fuel() {
    if skipped("an_endless_loop_uses_up_its_fuel") {
        return;
    }
    let host = Host::new();
    let outcome = host
        .tool(&["spin"], |spec| annotate(spec, FUEL, "50000000"))
        .await;
    ended_by(&outcome, ExitReason::FuelExhausted, 137, "50000000");
    assert_eq!(
        host.runtime.stats(&id("c0")).await.unwrap().fuel,
        Some(50_000_000)
    );
}

#[tokio::test]
async fn fuel_is_limited_unless_an_annotation_says_otherwise() {
    if skipped("fuel_is_limited_unless_an_annotation_says_otherwise") {
        return;
    }
    let host = Host::new();
    let outcome = host.tool(&["spin"], |_| {}).await;
    ended_by(&outcome, ExitReason::FuelExhausted, 137, "1000000000");
}

#[tokio::test]
async fn an_endless_loop_is_ended_by_its_deadline() {
    if skipped("an_endless_loop_is_ended_by_its_deadline") {
        return;
    }
    let host = Host::new();
    for fuel in ["off", "1000000000000000"] {
        let outcome = host
            .tool(&["spin"], |spec| {
                annotate(spec, FUEL, fuel);
                annotate(spec, DEADLINE, "1");
            })
            .await;
        ended_by(&outcome, ExitReason::DeadlineExceeded, 137, "longer than 1 s");
    }
}

#[tokio::test]
async fn a_sleeping_program_is_ended_by_its_deadline() {
    if skipped("a_sleeping_program_is_ended_by_its_deadline") {
        return;
    }
    let host = Host::new();
    let outcome = host
        .tool(&["sleep", "1000"], |spec| annotate(spec, DEADLINE, "1"))
        .await;
    ended_by(&outcome, ExitReason::DeadlineExceeded, 137, "longer than 1 s");
    assert_eq!(outcome.stdout, "sleeping\n");
}

#[tokio::test]
async fn a_memory_hog_meets_the_limit_of_its_bundle() {
    if skipped("a_memory_hog_meets_the_limit_of_its_bundle") {
        return;
    }
    let host = Host::new();
    let outcome = host
        .tool(&["hog"], |spec| {
            spec["linux"] = json!({"resources": {"memory": {"limit": 40 << 20}}});
            annotate(spec, FUEL, "off");
        })
        .await;
    ended_by(&outcome, ExitReason::MemoryLimit, 137, "41943040");
    assert!(outcome.exit.oom_killed);
    assert_eq!(outcome.stdout, "16\n32\n");
    let memory = host.runtime.stats(&id("c0")).await.unwrap().memory;
    assert_eq!(memory.limit, Some(40 << 20));
    assert!(memory.peak > 32 << 20 && memory.peak <= 40 << 20, "{memory:?}");
    assert_eq!(memory.usage, 0, "given back");
}

#[tokio::test]
async fn deep_recursion_overflows_the_stack() {
    if skipped("deep_recursion_overflows_the_stack") {
        return;
    }
    let host = Host::new();
    // C's own stack, in linear memory, is the smaller one, and C does not notice its end; so in WAT.
    let module = wat::parse_str(r#"(module (func $f (export "_start") call $f i32.const 0 drop))"#).unwrap();
    let bundle = host.bundle_of("wat", &module, &[], |_| {});
    let outcome = host.run("wat", &bundle).await;
    ended_by(&outcome, ExitReason::StackOverflow, 134, "1048576");
    let outcome = host.tool(&["recurse"], |_| {}).await;
    assert!(
        matches!(
            outcome.exit.reason,
            Some(ExitReason::Trap | ExitReason::StackOverflow)
        ),
        "{outcome:?}"
    );
    assert_eq!(outcome.exit.code, 134);
}

#[tokio::test]
async fn an_abort_is_an_abort() {
    if skipped("an_abort_is_an_abort") {
        return;
    }
    let host = Host::new();
    let outcome = host.tool(&["abort"], |_| {}).await;
    ended_by(&outcome, ExitReason::Trap, 134, "unreachable");
}

#[tokio::test]
async fn growing_tables_meets_a_limit() {
    let host = Host::new();
    let module = wat::parse_str(
        r#"(module (table $t 1 funcref)
            (func (export "_start") (loop $l
                (drop (table.grow $t (ref.null func) (i32.const 100000))) (br $l))))"#,
    )
    .unwrap();
    let bundle = host.bundle_of("c", &module, &[], |_| {});
    let outcome = host.run("c", &bundle).await;
    ended_by(&outcome, ExitReason::TableLimit, 137, "1048576");
}

#[tokio::test]
async fn a_modules_own_maximum_is_no_trap() {
    let host = Host::new();
    let module = wat::parse_str(
        r#"(module (memory 1 2) (table $t 1 2 funcref)
            (func (export "_start")
                (if (i32.ne (memory.grow (i32.const 100)) (i32.const -1)) (then unreachable))
                (if (i32.ne (table.grow $t (ref.null func) (i32.const 100)) (i32.const -1)) (then unreachable))))"#,
    )
    .unwrap();
    let bundle = host.bundle_of("c", &module, &[], |_| {});
    assert_eq!(host.run("c", &bundle).await.exit.code, 0);
}

#[tokio::test]
async fn a_module_that_starts_above_its_limit_is_not_created() {
    let host = Host::new();
    let module = wat::parse_str(r#"(module (memory 1000) (func (export "_start")))"#).unwrap();
    let bundle = host.bundle_of("c", &module, &[], |spec| {
        spec["linux"] = json!({"resources": {"memory": {"limit": 1 << 20}}});
    });
    let error = host.create("c", &bundle, None).await.err().unwrap().to_string();
    assert!(error.contains("needs 65536000 bytes of memory"), "{error}");
}

#[tokio::test]
async fn a_start_function_is_the_programs_and_is_limited_as_it_is() {
    let host = Host::new();
    let module =
        wat::parse_str(r#"(module (func $s (loop $l (br $l))) (start $s) (func (export "_start")))"#)
            .unwrap();
    let bundle = host.bundle_of("c", &module, &[], |spec| annotate(spec, FUEL, "1000000"));
    let outcome = host.run("c", &bundle).await;
    ended_by(&outcome, ExitReason::FuelExhausted, 137, "1000000");
}

#[tokio::test]
async fn malformed_annotations_are_refused_by_name() {
    let host = Host::new();
    let module = wat::parse_str(r#"(module (func (export "_start")))"#).unwrap();
    for (i, (name, value)) in [
        (FUEL, "lots"),
        (DEADLINE, "0"),
        (oci_wasm::annotations::LISTEN, "http"),
        (oci_wasm::annotations::ALLOW_OUTBOUND, "everywhere"),
        (oci_wasm::annotations::HTTP_CONCURRENCY, "100000"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("c{i}");
        let bundle = host.bundle_of(&id, &module, &[], |spec| annotate(spec, name, value));
        let error = host.create(&id, &bundle, None).await.err().unwrap().to_string();
        assert!(error.contains(name), "{error}");
    }
}
