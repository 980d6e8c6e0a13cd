//! URLs: `file:`, `data:`, `http:` and `https:`.

use std::io::Read;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ureq::Agent;
use ureq::unversioned::transport::DefaultConnector;
use url::{Host, Url};

use super::address::{NotPublic, PublicOnly};
use super::source::{MediaLimits, Opened, too_large};
use crate::{Error, Result};

/// As many redirects as browsers' order of magnitude and the reference's HTTP client allow.
const MAX_REDIRECTS: u32 = 20;
/// A server that does not even accept a connection is given up sooner than a slow download.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes received between two looks at the clock and the size.
const PIECE: usize = 64 << 10;

/// Base64 with or without its padding, as people paste it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Brings what `url` names to hand.
pub(super) fn open(url: &str, limits: &MediaLimits) -> Result<Opened> {
    if let Some(rest) = strip_scheme(url, "data:") {
        return Ok(Opened::Bytes(decode_data(rest, limits.file_bytes)?.into()));
    }
    let url = Url::parse(url).map_err(|error| Error::input("it is not a valid URL").caused_by(error))?;
    match url.scheme() {
        "file" => match url.to_file_path() {
            Ok(path) => Ok(Opened::File(path)),
            Err(()) => Err(Error::input("a file URL needs an absolute path on this machine: file:///folder/name")),
        },
        "http" | "https" => Ok(Opened::Bytes(download(&url, limits)?.into())),
        other => Err(Error::input(format!("{other} URLs are not read; use http, https, file or data"))),
    }
}

fn strip_scheme<'t>(url: &'t str, scheme: &str) -> Option<&'t str> {
    let (start, rest) = url.split_at_checked(scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// The bytes of a `data:` URL after its scheme (RFC 2397): `[type][;base64],payload`.
fn decode_data(rest: &str, limit: u64) -> Result<Vec<u8>> {
    let (head, payload) = rest
        .split_once(',')
        .ok_or_else(|| Error::input("a data URL needs a comma between its type and its content"))?;
    // Neither encoding can shrink below three bytes for twelve characters, so this bounds the work too.
    if payload.len() as u64 / 4 > limit {
        return Err(too_large(payload.len() as u64 / 4, limit));
    }
    let mut data = percent_decode(payload.as_bytes())?;
    if head.rsplit(';').next().is_some_and(|last| last.trim().eq_ignore_ascii_case("base64")) {
        data.retain(|byte| !byte.is_ascii_whitespace());
        data =
            BASE64.decode(&data).map_err(|error| Error::input("its base64 content is malformed").caused_by(error))?;
    }
    match data.len() as u64 {
        found if found > limit => Err(too_large(found, limit)),
        _ => Ok(data),
    }
}

fn percent_decode(text: &[u8]) -> Result<Vec<u8>> {
    let digit = |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16));
    let mut data = Vec::with_capacity(text.len());
    let mut position = 0;
    while let Some(&byte) = text.get(position) {
        if byte != b'%' {
            data.push(byte);
            position += 1;
            continue;
        }
        match (digit(text.get(position + 1)), digit(text.get(position + 2))) {
            (Some(high), Some(low)) => data.push((high * 16 + low) as u8),
            _ => return Err(Error::input("a % in a data URL must be followed by two hexadecimal digits")),
        }
        position += 3;
    }
    Ok(data)
}

fn download(url: &Url, limits: &MediaLimits) -> Result<Vec<u8>> {
    let deadline = Instant::now() + limits.timeout;
    let failed = |error: ureq::Error| Error::network(explain(&error, limits.timeout)).caused_by(error);
    let response = client(url, limits).get(url.as_str()).call().map_err(failed)?;
    if !response.status().is_success() {
        return Err(Error::network(format!("the server answers {}", response.status())));
    }
    if let Some(length) = response.body().content_length().filter(|&length| length > limits.file_bytes) {
        return Err(too_large(length, limits.file_bytes));
    }
    read_body(response.into_body().as_reader(), deadline, limits)
}

fn client(url: &Url, limits: &MediaLimits) -> Agent {
    let timeout = limits.timeout;
    let config = Agent::config_builder()
        .user_agent(concat!("smolvlm/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(CONNECT_TIMEOUT.min(timeout)))
        .timeout_global(Some(timeout))
        .max_redirects(MAX_REDIRECTS)
        // What began encrypted stays so.
        .https_only(url.scheme() == "https")
        .http_status_as_error(false);
    if limits.allow_private_addresses {
        // This very machine is never behind a proxy, whatever the environment says.
        let config = if is_loopback(url) { config.proxy(None) } else { config };
        return config.build().into();
    }
    // A proxy would resolve names by itself, and may well stand inside the network that must not be reached.
    Agent::with_parts(config.proxy(None).build(), DefaultConnector::default(), PublicOnly)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        None => false,
    }
}

/// Reads the body piecewise: the length it was promised proves nothing.
fn read_body(mut body: impl Read, deadline: Instant, limits: &MediaLimits) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    let mut piece = vec![0; PIECE];
    loop {
        let read = body.read(&mut piece).map_err(|error| broken_off(error, deadline, limits.timeout))?;
        if read == 0 {
            return Ok(data);
        }
        data.extend_from_slice(&piece[..read]);
        if data.len() as u64 > limits.file_bytes {
            return Err(too_large(data.len() as u64, limits.file_bytes));
        }
        if Instant::now() > deadline {
            return Err(Error::network(timed_out(limits.timeout)));
        }
    }
}

fn broken_off(error: std::io::Error, deadline: Instant, timeout: Duration) -> Error {
    let late = error.kind() == std::io::ErrorKind::TimedOut || Instant::now() >= deadline;
    let message = if late { timed_out(timeout) } else { "the connection broke off".to_owned() };
    Error::network(message).caused_by(error)
}

fn timed_out(timeout: Duration) -> String {
    format!("the server took longer than {} s", timeout.as_secs_f32())
}

fn explain(error: &ureq::Error, timeout: Duration) -> String {
    match error {
        ureq::Error::Timeout(_) => timed_out(timeout),
        ureq::Error::Other(inner) if inner.is::<NotPublic>() => inner.to_string(),
        ureq::Error::TooManyRedirects => format!("the server redirects more than {MAX_REDIRECTS} times"),
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed | ureq::Error::Io(_) => {
            "the server cannot be reached".to_owned()
        }
        _ => "the request failed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::MediaSource;
    use super::*;
    use crate::ErrorKind;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use ureq::config::Config;
    use ureq::http::Uri;
    use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
    use ureq::unversioned::transport::NextTimeout;

    fn read(url: &str, limits: &MediaLimits) -> Result<Vec<u8>> {
        MediaSource::Url(url.to_owned()).read(limits).map(|data| data.to_vec())
    }

    fn limits() -> MediaLimits {
        MediaLimits {
            file_bytes: 1000,
            timeout: Duration::from_secs(5),
            allow_private_addresses: true,
            ..MediaLimits::default()
        }
    }

    /// A server on this machine that answers every request by `answer`, and its address.
    fn serve(answer: impl Fn(&mut TcpStream, &str) + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read(&mut byte).unwrap_or(0) == 0 {
                        break;
                    }
                    request.push(byte[0]);
                }
                let request = String::from_utf8_lossy(&request);
                answer(&mut stream, request.split(' ').nth(1).unwrap_or_default());
            }
        });
        format!("http://{address}")
    }

    fn respond(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) {
        // A client that has seen enough may be gone.
        let _ = write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n");
        let _ = stream.write_all(body);
    }

    #[test]
    fn data_urls_are_decoded_from_base64_and_percent_encoding() {
        for (url, expected) in [
            ("data:image/png;base64,aGVsbG8=", "hello"),
            ("data:image/png;base64,aGVs\nbG8", "hello"),
            ("DATA:;charset=utf-8;base64,aGVsbG8%3D", "hello"),
            ("data:,a%20b%2Cc", "a b,c"),
        ] {
            assert_eq!(read(url, &limits()).unwrap(), expected.as_bytes(), "{url}");
        }
    }

    #[test]
    fn malformed_data_urls_are_refused() {
        for url in ["data:image/png;base64", "data:;base64,a*b", "data:,100%", "data:,%zz", "data:,"] {
            assert_eq!(read(url, &limits()).unwrap_err().kind(), ErrorKind::Input, "{url}");
        }
        let long = format!("data:,{}", "x".repeat(1001));
        assert!(read(&long, &limits()).unwrap_err().to_string().contains("at most 1000"));
    }

    #[test]
    fn file_urls_name_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a b.bin");
        std::fs::write(&path, "content").unwrap();
        let url = Url::from_file_path(&path).unwrap();
        assert!(url.as_str().contains("a%20b"));
        assert_eq!(read(url.as_str(), &limits()).unwrap(), b"content");
        assert_eq!(read("file://elsewhere/x", &limits()).unwrap_err().kind(), ErrorKind::Input);
    }

    #[test]
    fn http_files_are_downloaded_through_redirects() {
        let base = serve(|stream, path| match path {
            "/moved" => respond(stream, "302 Found", "Location: /file\r\n", b""),
            _ => respond(stream, "200 OK", "", b"content"),
        });
        assert_eq!(read(&format!("{base}/moved"), &limits()).unwrap(), b"content");
    }

    #[test]
    fn this_machine_is_not_reached_in_any_spelling_unless_allowed() {
        let base = serve(|stream, _| respond(stream, "200 OK", "", b"secret"));
        let port = base.rsplit(':').next().unwrap();
        let strict = MediaLimits { allow_private_addresses: false, ..limits() };
        let hosts = [
            "127.0.0.1",
            "localhost",
            "LOCALHOST",
            "127.1",
            "127.0.1",
            "2130706433",
            "0x7f.1",
            "0x7f.0x0.0x0.0x1",
            "0177.0.0.1",
            "017700000001",
            "0x7f000001",
            "0x7F000001",
            "0",
            "00000000",
            "0.0.0.0",
            "127.0.0.1.",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[0:0:0:0:0:ffff:127.0.0.1]",
            "[::127.0.0.1]",
            "[::ffff:0:127.0.0.1]",
            "[::]",
            "user:pw@127.0.0.1",
            "%31%32%37.0.0.1",
            "\u{ff11}27.0.0.1",
            "127\u{3002}0.0.1",
            "169.254.169.254",
            "2852039166",
            "0xa9fea9fe",
            "10.0.0.1",
            "10.1",
            "172.16.1",
            "192.168.0.1",
            "192.168.257",
            "100.64.0.1",
            "255.255.255.255",
            "[fd00::1]",
            "[fe80::1]",
            "[::ffff:169.254.169.254]",
            "[64:ff9b::7f00:1]",
            "[64:ff9b::169.254.169.254]",
            "[64:ff9b:1::7f00:1]",
            "[2002:7f00:1::]",
        ];
        for host in hosts {
            let error = read(&format!("http://{host}:{port}/x"), &strict).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("--allow-private-urls") && !text.contains("secret"), "{host}: {text}");
        }
        // Not every system resolves this one.
        assert!(read(&format!("http://localhost.:{port}/x"), &strict).is_err());
        assert_eq!(read(&format!("{base}/x"), &limits()).unwrap(), b"secret");
    }

    /// Takes one made-up name for a public one, and judges every other as [`PublicOnly`] does.
    #[derive(Debug)]
    struct OnePublicName(std::net::SocketAddr);

    impl Resolver for OnePublicName {
        fn resolve(
            &self,
            uri: &Uri,
            config: &Config,
            timeout: NextTimeout,
        ) -> Result<ResolvedSocketAddrs, ureq::Error> {
            if uri.host() != Some("public.test") {
                return PublicOnly.resolve(uri, config, timeout);
            }
            let mut found = self.empty();
            found.push(self.0);
            Ok(found)
        }
    }

    #[test]
    fn a_redirect_into_a_private_network_is_refused() {
        let base = serve(|stream, path| match path.strip_prefix("/to/") {
            Some(host) => respond(stream, "302 Found", &format!("Location: http://{host}/secret\r\n"), b""),
            None => respond(stream, "200 OK", "", b"secret"),
        });
        let address: std::net::SocketAddr = base.strip_prefix("http://").unwrap().parse().unwrap();
        let config = Agent::config_builder().proxy(None).http_status_as_error(false).build();
        let agent = Agent::with_parts(config, DefaultConnector::default(), OnePublicName(address));
        let port = address.port();
        let get = |path: &str| agent.get(format!("http://public.test:{port}/{path}")).call();
        assert_eq!(get("open").unwrap().into_body().read_to_string().unwrap(), "secret");
        for host in ["127.0.0.1", "2130706433", "0177.1", "localhost", "0.0.0.0", "10.0.0.1", "[::ffff:127.0.0.1]"] {
            let error = get(&format!("to/{host}:{port}")).unwrap_err();
            assert!(explain(&error, Duration::ZERO).contains("private network"), "{host}: {error}");
        }
    }

    #[test]
    fn http_errors_are_network_errors() {
        let base = serve(|stream, path| match path {
            "/missing" => respond(stream, "404 Not Found", "", b"no"),
            "/cut" => respond(stream, "200 OK", "Content-Length: 100\r\n", b"part"),
            _ => respond(stream, "302 Found", "Location: /loop\r\n", b""),
        });
        for (path, expected) in [("missing", "404"), ("loop", "redirects"), ("cut", "broke off")] {
            let error = read(&format!("{base}/{path}"), &limits()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Network);
            assert!(error.to_string().contains(expected) && error.to_string().contains(path), "{error}");
        }
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = read(&format!("http://{closed}/x"), &limits()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Network);
    }

    #[test]
    fn http_files_over_the_limit_are_refused_whatever_length_they_promise() {
        let base = serve(|stream, path| match path {
            "/promised" => respond(stream, "200 OK", "Content-Length: 99999999999\r\n", b""),
            _ => respond(stream, "200 OK", "", &[0; 5000]),
        });
        for path in ["promised", "streamed"] {
            let error = read(&format!("{base}/{path}"), &limits()).unwrap_err();
            assert!(error.to_string().contains("at most 1000"), "{error}");
        }
    }

    #[test]
    fn a_server_that_drips_is_given_up_at_the_deadline() {
        let base = serve(|stream, _| {
            respond(stream, "200 OK", "", b"");
            while stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let start = Instant::now();
        let limits = MediaLimits { timeout: Duration::from_millis(300), ..limits() };
        let error = read(&base, &limits).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Network);
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    }
}
