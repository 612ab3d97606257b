//! The package mirrors that the machine's apt configuration names, and whether they answer.

use super::tools::output;
use super::{Item, Status};
use guest_images::{Host, Source};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

/// Name resolution and connection together.
const LIMIT: Duration = Duration::from_secs(2);

pub(super) fn examine(host: &Host, offline: bool) -> Vec<Item> {
    let Some(mirrors) = host.debian_mirrors() else {
        return vec![Item::missing("mirror", "apt's configuration names no Debian mirror").advise(
            "builds need Debian's packages; elsewhere bring your own kernel: --kernel FILE --initrd FILE",
        )];
    };
    let proxies = if offline { Proxies::default() } else { Proxies::of(host) };
    let archive = |what: &str, source: &Source| {
        let finding = format!("{} {}", source.uris.join(" "), source.suites.join(" "));
        if offline {
            return Item::ok(what, format!("{finding} (not contacted)"));
        }
        let answers: Vec<Answer> = source.uris.iter().map(|uri| contact(&proxies.target(uri))).collect();
        judge(what, &finding, &answers)
    };
    std::thread::scope(|scope| {
        let security =
            mirrors.security.as_ref().map(|source| scope.spawn(|| archive("security mirror", source)));
        let main = archive("mirror", &mirrors.main);
        let security = match security {
            Some(thread) => {
                thread.join().unwrap_or_else(|_| Item::missing("security mirror", "the check failed"))
            }
            None => {
                Item::warn("security mirror", "none: Linux 6.12 comes from backports, if the mirror has them")
            }
        };
        vec![main, security]
    })
}

fn judge(what: &str, finding: &str, answers: &[Answer]) -> Item {
    // apt needs one of them.
    let status = answers.iter().map(Answer::status).min().unwrap_or(Status::Missing);
    let said: Vec<String> = answers.iter().map(ToString::to_string).collect();
    let item = Item::new(status, what, format!("{finding} ({})", said.join("; ")));
    match status {
        Status::Ok => item,
        _ => item.advise("check the network and apt's proxy settings; built images need no network"),
    }
}

/// What has to answer for a URI.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// On this machine.
    Local,
    /// Host and port, of the mirror or of the proxy.
    Network { host: String, port: u16, proxy: bool },
    /// A transport that only apt can try.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Local,
    Answers { proxy: bool },
    Silent { proxy: bool, reason: String },
    NotTried,
}

impl Answer {
    fn status(&self) -> Status {
        match self {
            Self::Local | Self::Answers { .. } => Status::Ok,
            Self::NotTried => Status::Warn,
            Self::Silent { .. } => Status::Missing,
        }
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local => write!(f, "on this machine"),
            Self::Answers { proxy: false } => write!(f, "answers"),
            Self::Answers { proxy: true } => write!(f, "its proxy answers"),
            Self::Silent { proxy: false, reason } => write!(f, "does not answer: {reason}"),
            Self::Silent { proxy: true, reason } => write!(f, "its proxy does not answer: {reason}"),
            Self::NotTried => write!(f, "only apt can try it"),
        }
    }
}

fn contact(target: &Target) -> Answer {
    let (host, port, proxy) = match target {
        Target::Local => return Answer::Local,
        Target::Unknown => return Answer::NotTried,
        Target::Network { host, port, proxy } => (host.clone(), *port, *proxy),
    };
    let (sender, receiver) = mpsc::channel();
    // A resolver may take much longer than anybody wants to wait: its thread is left behind.
    let thread = std::thread::Builder::new().name("mirror".into()).spawn(move || {
        // Nobody may be left to listen.
        let _ = sender.send(connect(&host, port));
    });
    let answer = match thread {
        Ok(_) => receiver
            .recv_timeout(LIMIT)
            .unwrap_or_else(|_| Err(format!("nothing within {} s", LIMIT.as_secs()))),
        Err(error) => Err(error.to_string()),
    };
    match answer {
        Ok(()) => Answer::Answers { proxy },
        Err(reason) => Answer::Silent { proxy, reason },
    }
}

fn connect(host: &str, port: u16) -> Result<(), String> {
    let addresses: Vec<_> = (host, port).to_socket_addrs().map_err(|error| error.to_string())?.collect();
    let mut reason = "the name has no address".to_owned();
    for address in &addresses {
        match TcpStream::connect_timeout(address, LIMIT) {
            Ok(_) => return Ok(()),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(reason)
}

/// The proxies that apt would use, by scheme.
#[derive(Clone, Debug, Default)]
struct Proxies {
    http: Option<String>,
    https: Option<String>,
    /// `Acquire::http::Proxy-Auto-Detect`: only apt knows.
    detected: bool,
}

impl Proxies {
    fn of(host: &Host) -> Self {
        let dump = host.find("apt-config").and_then(|program| {
            output(Command::new(program).arg("dump").env("PATH", &host.path).env("LC_ALL", "C"), "").ok()
        });
        Self::parse(&dump.unwrap_or_default(), |name| std::env::var(name).ok())
    }

    /// From `apt-config dump`, else from the environment (apt-transport-http(1)).
    fn parse(dump: &str, environment: impl Fn(&str) -> Option<String>) -> Self {
        let option = |name: &str| {
            dump.lines().find_map(|line| {
                let (key, value) = line.split_once(' ')?;
                let value = value.trim_end_matches(';').trim_matches('"');
                (key.eq_ignore_ascii_case(name) && !value.is_empty()).then(|| value.to_owned())
            })
        };
        let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
        let configured = option("Acquire::http::Proxy");
        Self {
            detected: ["Acquire::http::Proxy-Auto-Detect", "Acquire::http::ProxyAutoDetect"]
                .iter()
                .any(|name| option(name).is_some()),
            https: option("Acquire::https::Proxy")
                .or_else(|| configured.clone())
                .or_else(|| variable("https_proxy")),
            http: configured.or_else(|| variable("http_proxy")),
        }
    }

    fn target(&self, uri: &str) -> Target {
        let Some((scheme, rest)) = uri.split_once(':') else { return Target::Unknown };
        let (port, proxy) = match scheme {
            "file" | "copy" => return Target::Local,
            "http" => (80, &self.http),
            "https" => (443, &self.https),
            _ => return Target::Unknown,
        };
        match proxy.as_deref().filter(|proxy| !proxy.eq_ignore_ascii_case("DIRECT")) {
            None if self.detected => Target::Unknown,
            None => authority(rest, port).map_or(Target::Unknown, |(host, port)| Target::Network {
                host,
                port,
                proxy: false,
            }),
            Some(proxy) => {
                let rest = proxy.split_once(':').filter(|(_, rest)| rest.starts_with("//"));
                let rest = rest.map_or_else(|| format!("//{proxy}"), |(_, rest)| rest.to_owned());
                let default = if proxy.starts_with("https:") { 443 } else { 80 };
                authority(&rest, default).map_or(Target::Unknown, |(host, port)| Target::Network {
                    host,
                    port,
                    proxy: true,
                })
            }
        }
    }
}

/// Host and port of `//[user@]host[:port]/…` (RFC 3986, 3.2).
fn authority(rest: &str, default_port: u16) -> Option<(String, u16)> {
    let authority = rest.strip_prefix("//")?.split(['/', '?', '#']).next()?;
    let host_port = authority.rsplit_once('@').map_or(authority, |(_, after)| after);
    let (host, port) = match host_port.strip_prefix('[') {
        Some(bracketed) => {
            let (host, after) = bracketed.split_once(']')?;
            (host, after.strip_prefix(':'))
        }
        None => host_port.split_once(':').map_or((host_port, None), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        Some(port) if !port.is_empty() => port.parse().ok()?,
        _ => default_port,
    };
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn network(host: &str, port: u16, proxy: bool) -> Target {
        Target::Network { host: host.into(), port, proxy }
    }

    #[test]
    fn uris_name_who_has_to_answer() {
        let direct = Proxies::default();
        assert_eq!(direct.target("http://m.example/debian"), network("m.example", 80, false));
        assert_eq!(direct.target("https://u:p@m.example:8443/debian"), network("m.example", 8443, false));
        assert_eq!(direct.target("http://[::1]:3142/debian"), network("::1", 3142, false));
        assert_eq!(direct.target("file:///srv/debian"), Target::Local);
        assert_eq!(direct.target("tor+http://m.example/debian"), Target::Unknown);
        assert_eq!(direct.target("http://m.example:99999/"), Target::Unknown);
        assert_eq!(direct.target("nonsense"), Target::Unknown);
    }

    #[test]
    fn proxies_come_from_apt_first_then_from_the_environment() {
        let environment = |name: &str| (name == "http_proxy").then(|| "http://e.example:1".to_owned());
        let dump = "Acquire \"\";\nAcquire::http::Proxy \"http://p.example:3128/\";\n";
        let proxies = Proxies::parse(dump, environment);
        assert_eq!(proxies.target("http://m.example/"), network("p.example", 3128, true));
        assert_eq!(proxies.target("https://m.example/"), network("p.example", 3128, true));

        let proxies = Proxies::parse("Acquire::https::Proxy \"DIRECT\";\n", environment);
        assert_eq!(proxies.target("http://m.example/"), network("e.example", 1, true));
        assert_eq!(proxies.target("https://m.example/"), network("m.example", 443, false));

        let proxies = Proxies::parse("Acquire::http::Proxy-Auto-Detect \"/bin/x\";\n", |_| None);
        assert_eq!(proxies.target("http://m.example/"), Target::Unknown);
    }

    #[test]
    fn a_port_answers_or_does_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(contact(&network("127.0.0.1", port, false)), Answer::Answers { proxy: false });
        drop(listener);
        let silent = contact(&network("127.0.0.1", port, true));
        assert!(matches!(silent, Answer::Silent { proxy: true, .. }), "{silent}");

        let item = judge("mirror", "http://m.example x", &[silent.clone(), Answer::Answers { proxy: false }]);
        assert_eq!(item.status, Status::Ok, "one of two is enough");
        let item = judge("mirror", "http://m.example x", &[silent]);
        assert_eq!(item.status, Status::Missing);
        assert!(item.finding.contains("its proxy does not answer") && item.advice.is_some());
    }

    #[test]
    fn the_mirror_comes_from_apts_configuration() {
        let root = tempfile::tempdir().unwrap();
        let host = Host { path: Default::default(), root: root.path().to_owned() };
        assert_eq!(examine(&host, true)[0].status, Status::Missing);

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("http://127.0.0.1:{}/debian", listener.local_addr().unwrap().port());
        std::fs::create_dir_all(root.path().join("etc/apt")).unwrap();
        std::fs::write(root.path().join("etc/os-release"), "ID=debian\nVERSION_CODENAME=bookworm\n").unwrap();
        std::fs::write(root.path().join("etc/apt/sources.list"), format!("deb {uri} bookworm main\n"))
            .unwrap();
        let items = examine(&host, true);
        assert_eq!(items[0].finding, format!("{uri} bookworm (not contacted)"));
        assert_eq!(items[1].status, Status::Warn, "no security archive");
        let items = examine(&host, false);
        assert_eq!(items[0].status, Status::Ok, "{}", items[0].finding);
    }
}
