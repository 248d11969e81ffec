//! The images the tests run.

use std::path::Path;

use magikrun_test_images::{ImageConfig, LayerBuilder, Layout};

/// What [`busybox_layout`]'s image is called, in the layout and, once pulled from it, in the store.
pub const BUSYBOX: &str = "localhost/busybox:1";

/// A layout with [`BUSYBOX`], one layer.
#[must_use]
pub fn busybox_layout(dir: &Path) -> Layout {
    let mut layer = LayerBuilder::new();
    layer.busybox().expect("busybox");
    let layer = layer.finish().expect("layer");
    let mut layout = Layout::create(dir).expect("layout");
    layout
        .add(BUSYBOX, &[&layer], &ImageConfig::default())
        .expect("image");
    layout
}

/// A layout with `redis`, `nginx` and `client` (curl, redis-cli, a shell and busybox), made from the Debian packages installed here.
#[must_use]
pub fn redis_nginx_layout(dir: &Path) -> Layout {
    let layer = |fill: &dyn Fn(&mut LayerBuilder) -> anyhow::Result<()>| {
        let mut layer = LayerBuilder::new();
        fill(&mut layer)
            .and_then(|()| layer.finish())
            .expect("a layer from Debian packages (`cargo xtask test` installs them)")
    };
    let redis = layer(&|l| {
        l.accounts()?
            .packages(&["redis-server", "redis-tools", "busybox-static"])?
            .dir("/data", 0o777)
            .map(drop)
    });
    let nginx = layer(&|l| {
        // Debian's own configuration writes its logs to files; a container's go to its streams.
        let conf = "daemon off; worker_processes 1; user www-data; pid /run/nginx.pid; error_log /dev/stderr;\n\
                    events { worker_connections 64; }\n\
                    http { access_log /dev/stdout; server { listen 8080; root /srv/www; } }\n";
        l.accounts()?
            .file("/etc/nginx/magikrun.conf", 0o644, conf.as_bytes())?
            .packages(&["nginx", "nginx-common"])?;
        l.dir("/var/lib/nginx", 0o755)?
            .dir("/var/log/nginx", 0o755)?
            .dir("/run", 0o755)?
            .dir("/srv/www", 0o755)
            .map(drop)
    });
    let client = layer(&|l| {
        l.accounts()?
            .packages(&["curl", "redis-tools", "dash", "busybox-static"])
            .map(drop)
    });
    let mut layout = Layout::create(dir).expect("layout");
    let redis_config = ImageConfig {
        user: "redis".into(),
        working_dir: "/data".into(),
        ..ImageConfig::command(&["redis-server", "--save", "", "--bind", "127.0.0.1"])
    };
    layout.add("redis", &[&redis], &redis_config).expect("image");
    layout
        .add(
            "nginx",
            &[&nginx],
            &ImageConfig::command(&["nginx", "-c", "/etc/nginx/magikrun.conf"]),
        )
        .expect("image");
    layout
        .add("client", &[&client], &ImageConfig::default())
        .expect("image");
    layout
}
