//! What a program finds around it: the state of a store.

use std::{fs::File, io, path::PathBuf, sync::Arc};

use wasmtime::{Engine, Store};
use wasmtime_wasi::{FsPerms, WasiCtxBuilder, WasiCtxView, WasiView, p1::WasiP1Ctx};
use wasmtime_wasi_http::{
    Error as HttpError, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use crate::{
    control::YIELD_FUEL,
    limiter::{Limiter, Usage},
    network::{Network, Protocol},
    sockets::Sockets,
    stdio::Streams,
};

/// A directory a program may use.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    pub(crate) host: PathBuf,
    /// What `host` names by its number, if it does: what stays open.
    pub(crate) _held: Option<Arc<File>>,
    pub(crate) guest: String,
    pub(crate) read_only: bool,
}

/// All that a program is given; the same for every store of a container.
#[derive(Debug, Default)]
pub(crate) struct ProgramSetup {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) cwd: String,
    pub(crate) directories: Vec<Directory>,
    pub(crate) streams: Streams,
    pub(crate) network: Arc<Network>,
    pub(crate) usage: Arc<Usage>,
    /// `None`: epochs.
    pub(crate) fuel: Option<u64>,
}

/// The state of a store.
pub(crate) struct Host {
    pub(crate) wasi: WasiP1Ctx,
    http: WasiHttpCtx,
    hooks: Hooks,
    limiter: Limiter,
    pub(crate) sockets: Sockets,
}

type Sent = Result<
    (
        hyper::Response<WasiBody>,
        Box<dyn Future<Output = Result<(), HttpError>> + Send>,
    ),
    HttpError,
>;

/// Outgoing HTTP requests.
struct Hooks {
    network: Arc<Network>,
}

impl ProgramSetup {
    /// A store for one program, with its limits. `sockets` are what a preview 1 module listens on.
    pub(crate) fn store(&self, engine: &Engine, sockets: Sockets) -> io::Result<Store<Host>> {
        let mut store = Store::new(engine, self.host(sockets)?);
        store.limiter(|host| &mut host.limiter);
        match self.fuel {
            Some(fuel) => {
                store.set_fuel(fuel).map_err(io::Error::other)?;
                store
                    .fuel_async_yield_interval(Some(YIELD_FUEL))
                    .map_err(io::Error::other)?;
            }
            None => {
                store.set_epoch_deadline(1);
                store.epoch_deadline_async_yield_and_update(1);
            }
        }
        Ok(store)
    }

    fn host(&self, sockets: Sockets) -> io::Result<Host> {
        Ok(Host {
            wasi: self.wasi(&sockets)?.build_p1(),
            http: WasiHttpCtx::new(),
            hooks: Hooks {
                network: self.network.clone(),
            },
            limiter: Limiter::new(self.usage.clone()),
            sockets,
        })
    }

    fn wasi(&self, sockets: &Sockets) -> io::Result<WasiCtxBuilder> {
        let mut wasi = WasiCtxBuilder::new();
        wasi.args(&self.args)
            .envs(&self.env)
            .initial_cwd(&self.cwd)
            // The program has a thread of its own to block.
            .allow_blocking_current_thread(true);
        for (name, value) in sockets.env() {
            wasi.env(name, value);
        }
        self.streams.connect(&mut wasi)?;
        for directory in &self.directories {
            let perms = if directory.read_only {
                FsPerms::ReadOnly
            } else {
                FsPerms::ReadWrite
            };
            wasi.preopened_dir(&directory.host, &directory.guest, perms)
                .map_err(|e| io::Error::other(format!("{}: {e}", directory.host.display())))?;
        }
        let network = self.network.clone();
        wasi.allow_tcp(network.uses(Protocol::Tcp))
            .allow_udp(network.uses(Protocol::Udp))
            .allow_ip_name_lookup(network.names())
            .socket_addr_check(move |address, usage| {
                let allowed = network.allows(address, usage);
                Box::pin(std::future::ready(allowed))
            });
        Ok(wasi)
    }
}

impl Host {
    /// A store that nothing runs in.
    pub(crate) fn empty(engine: &Engine) -> Option<Store<Self>> {
        let setup = ProgramSetup {
            cwd: "/".to_owned(),
            ..ProgramSetup::default()
        };
        Some(Store::new(engine, setup.host(Sockets::default()).ok()?))
    }
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: self.wasi.ctx().table,
            hooks: &mut self.hooks,
        }
    }
}

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: hyper::Request<WasiBody>,
        options: Option<RequestOptions>,
        _done: Box<dyn Future<Output = Result<(), HttpError>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let uri = request.uri();
        let default = if uri.scheme_str() == Some("http") { 80 } else { 443 };
        let port = uri.port_u16().unwrap_or(default);
        let allowed = uri
            .host()
            .is_some_and(|host| self.network.allows_request(host, port));
        Box::new(async move {
            if !allowed {
                return Err(HttpError::HttpRequestDenied);
            }
            let (response, done) = wasmtime_wasi_http::default_send_request(request, options).await?;
            Ok((
                response.map(http_body_util::BodyExt::boxed_unsync),
                Box::new(done) as Box<dyn Future<Output = _> + Send>,
            ))
        })
    }
}
