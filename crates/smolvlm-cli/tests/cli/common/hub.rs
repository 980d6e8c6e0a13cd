//! A model hub on this machine: one model, one commit.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub that serves until the process ends.
pub(crate) struct Hub {
    pub(crate) endpoint: String,
    shared: Arc<Shared>,
}

struct Shared {
    files: BTreeMap<String, Vec<u8>>,
    /// Bytes of the weights after which the next transfer of them breaks.
    breaks_after: Mutex<Option<usize>>,
    /// The token that is asked for.
    token: Option<&'static str>,
    /// `PATH RANGE` of every request.
    log: Mutex<Vec<String>>,
}

impl Hub {
    /// Serves the files in `folder` as `owner/model`.
    pub(crate) fn serve(folder: &Path) -> Self {
        Self::start(folder, None)
    }

    /// The same for those who bring `token` only.
    pub(crate) fn gated(folder: &Path, token: &'static str) -> Self {
        Self::start(folder, Some(token))
    }

    fn start(folder: &Path, token: Option<&'static str>) -> Self {
        let read = |entry: fs::DirEntry| {
            (entry.file_name().into_string().expect("UTF-8"), fs::read(entry.path()).expect("a file"))
        };
        let files = fs::read_dir(folder).expect("a folder").map(|entry| read(entry.expect("an entry"))).collect();
        let shared = Arc::new(Shared { files, breaks_after: Mutex::default(), token, log: Mutex::default() });
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let serving = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = serving.clone();
                thread::spawn(move || shared.answer(&stream));
            }
        });
        Self { endpoint, shared }
    }

    /// Breaks the next transfer of the weights after `count` bytes.
    pub(crate) fn break_after(&self, count: usize) {
        *self.shared.breaks_after.lock().expect("unpoisoned") = Some(count);
    }

    /// `PATH RANGE` of every request so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.log.lock().expect("unpoisoned").clone()
    }
}

impl Shared {
    fn answer(&self, stream: &TcpStream) {
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        let Some(request) = lines.next() else { return };
        let headers: BTreeMap<String, String> = lines
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())))
            .collect();
        let path = request.split(' ').nth(1).unwrap_or_default();
        let range = headers.get("range").map_or("", String::as_str);
        self.log.lock().expect("unpoisoned").push(format!("{path} {range}"));
        let authorised =
            |token: &str| headers.get("authorization").is_some_and(|given| *given == format!("Bearer {token}"));
        if self.token.is_some_and(|token| !authorised(token)) {
            return send(stream, "401 Unauthorized", "", b"");
        }
        if path == "/api/models/owner/model/revision/main" {
            let siblings: Vec<_> = self.files.keys().map(|file| serde_json::json!({"rfilename": file})).collect();
            let body = serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string();
            return send(stream, "200 OK", "", body.as_bytes());
        }
        let file =
            path.strip_prefix("/owner/model/resolve/").and_then(|rest| rest.strip_prefix(COMMIT)?.strip_prefix('/'));
        match file.and_then(|file| self.files.get_key_value(file)) {
            Some((file, content)) => self.send_file(stream, file, content, range),
            None => send(stream, "404 Not Found", "", b""),
        }
    }

    fn send_file(&self, mut stream: &TcpStream, file: &str, content: &[u8], range: &str) {
        let etag = file.bytes().fold(7_u128, |sum, byte| sum.wrapping_mul(131).wrapping_add(byte.into()));
        let (from, to) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).unwrap_or(("0", ""));
        let from: usize = from.parse().unwrap_or(0);
        let to = to.parse::<usize>().map_or(content.len(), |last| last + 1).min(content.len());
        let head = format!(
            "ETag: \"{etag:032x}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Range: bytes {from}-{}/{}\r\n",
            to - 1,
            content.len()
        );
        let is_question_of_size = to - from == 1;
        let mut breaks_after = self.breaks_after.lock().expect("unpoisoned");
        let cut = if file.ends_with(".safetensors") && !is_question_of_size { breaks_after.take() } else { None };
        let Some(cut) = cut else { return send(stream, "206 Partial Content", &head, &content[from..to]) };
        let head = format!("HTTP/1.1 206 Partial Content\r\n{head}Content-Length: {}\r\n\r\n", to - from);
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&content[from..from + cut]));
    }
}

/// A client that has hung up is part of the game.
fn send(mut stream: &TcpStream, status: &str, headers: &str, body: &[u8]) {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}
