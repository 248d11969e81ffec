//! The attacker reaches a pod over the network, or shares the host with it.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use magikrun_tests::{BUSYBOX, container, isolated, pod};
use serde_json::json;

use crate::support::{eventually, prepared};

/// More than a pod serves at a time, and than it lets wait.
const MANY: usize = 256 + 100;
/// Longer than any idle connection keeps its place while others wait; nothing is asserted about how long anything takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether a new client is answered.
fn is_served(port: u16) -> bool {
    let Ok(mut client) = TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = [0; 5];
    client.write_all(b"hello").is_ok() && client.read_exact(&mut answer).is_ok() && answer == *b"hello"
}

isolated!(
    fn idle_connections_do_not_keep_others_from_a_host_port(scene) {
        let magikrun = prepared(scene);
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut manifest = pod("web", &[container("c", BUSYBOX, "exec nc -ll -p 8080 -e cat")]);
        manifest["spec"]["containers"][0]["ports"] =
            json!([{"containerPort": 8080, "hostIP": "127.0.0.1", "hostPort": free}]);
        let out = magikrun.pod_run(&manifest);
        assert_eq!(out.code, 0, "{}", out.stderr);
        eventually("an answer", || is_served(free));
        let idle: Vec<TcpStream> =
            (0..MANY).map(|_| TcpStream::connect(("127.0.0.1", free)).unwrap()).collect();
        // In the second before the first idle ones give their places up, newcomers may be refused.
        for n in 0..3 {
            let what = format!("an answer for client {n} beside {} that say nothing", idle.len());
            eventually(&what, || is_served(free));
        }
        drop(idle);
        magikrun.ok(&["pod", "delete", "--force", "web"]);
    }
);
