//! Backends: one nginx each, serving its VIPs with keep-alive, naming itself in `X-Backend`, taking uploads by PUT.

use crate::content;
use crate::error::Error;
use crate::namespace::Namespace;
use crate::options::{Protocol, RunOptions};
use crate::server::Server;
use crate::stage::RUN_DIR;
use std::fmt::Write;
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};

/// Seeds of the served files, known to the client.
pub const SMALL_SEED: u64 = 1;
pub const LONG_SEED: u64 = 2;

/// Where a backend keeps its files.
pub fn folder(backend: &str) -> PathBuf {
    Path::new(RUN_DIR).join("backends").join(backend)
}

/// Where an upload arrives.
pub fn upload_path(backend: &str, name: &str) -> PathBuf {
    folder(backend).join("up").join(name)
}

/// Writes the files that every backend serves.
pub fn write_content(options: &RunOptions) -> Result<(), Error> {
    let folder = Path::new(RUN_DIR).join("www");
    fs::create_dir_all(folder.join("long")).map_err(Error::io("folder of served files"))?;
    let load = &options.lab.load;
    for (name, seed, size) in [("small", SMALL_SEED, load.small_size), ("long/file", LONG_SEED, load.download_size)] {
        fs::write(folder.join(name), content::bytes(seed, size)).map_err(Error::io(format!("served file {name}")))?;
    }
    Ok(())
}

/// Starts backend `number`'s server in its namespace.
pub fn start(options: &RunOptions, number: usize, namespace: &Namespace) -> Result<Server, Error> {
    let backend = &options.backends[number];
    let folder = folder(&backend.name);
    for part in ["up", "tmp"] {
        fs::create_dir_all(folder.join(part)).map_err(Error::io(format!("folder of {}", backend.name)))?;
    }
    let config = folder.join("nginx.conf");
    fs::write(&config, configuration(options, number))
        .map_err(Error::io(format!("configuration of {}", backend.name)))?;
    let arguments = ["-p", &folder.to_string_lossy(), "-e", "stderr", "-c", &config.to_string_lossy()];
    let arguments = arguments.map(str::to_owned);
    let server = Server::start("nginx", &options.tools.nginx, &arguments, namespace, &folder)?;
    // Probes for a UDP VIP end there.
    let probed =
        options.vips.iter().filter(|vip| vip.protocol == Protocol::Udp && vip.backends.contains(&backend.name));
    let sockets = namespace.run(|| {
        probed
            .map(|vip| {
                UdpSocket::bind((vip.address, vip.port))
                    .map_err(Error::io(format!("{}: UDP port {}", backend.name, vip.port)))
            })
            .collect()
    })?;
    Ok(server.beside(sockets))
}

fn configuration(options: &RunOptions, number: usize) -> String {
    let backend = &options.backends[number];
    let load = &options.lab.load;
    let mut listen = String::new();
    for vip in options.vips.iter().filter(|vip| vip.protocol == Protocol::Tcp && vip.backends.contains(&backend.name)) {
        // Writing to a string can't fail.
        let _ = writeln!(listen, "        listen {}:{} backlog=4096;", vip.address, vip.port);
    }
    let server = if listen.is_empty() {
        String::new()
    } else {
        format!(
            r#"
    server {{
{listen}        add_header X-Backend {name} always;
        root {RUN_DIR}/www;
        location /long/ {{ limit_rate {download_rate}; }}
        location /up/ {{ root {folder}; dav_methods PUT; create_full_put_path on; client_max_body_size 4g; }}
    }}
"#,
            name = backend.name,
            download_rate = load.download_rate,
            folder = folder(&backend.name).display(),
        )
    };
    // One process, no change of user: there is only one user in the namespace. A connection outlives any run.
    format!(
        r#"user root;
daemon off;
master_process off;
worker_processes 1;
worker_rlimit_nofile 4096;
pid nginx.pid;
error_log stderr error;
events {{ worker_connections 4000; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_timeout 1d;
    keepalive_requests 100000000;
    client_body_timeout 60s;
    send_timeout 60s;
    default_type application/octet-stream;
    client_body_temp_path tmp/body;
    proxy_temp_path tmp/proxy;
    fastcgi_temp_path tmp/fastcgi;
    uwsgi_temp_path tmp/uwsgi;
    scgi_temp_path tmp/scgi;
{server}}}
"#
    )
}
