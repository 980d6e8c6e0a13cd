//! A small model hub: one model, one commit, ranges, redirects, tokens.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

/// The commit that every revision stands for.
pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The range that the client asks for to learn a file's size.
const SIZE_ONLY: &str = "bytes=0-0";

/// How the hub misbehaves.
#[derive(Default)]
pub(super) struct Behaviour {
    /// Cuts the next transfers of these files after so many bytes, one after the other.
    pub(super) break_after: Vec<(&'static str, usize)>,
    /// Sends files by way of another address.
    pub(super) redirect: bool,
    /// Sends whole files whatever part is asked for, except for the first byte.
    pub(super) ignore_ranges: bool,
    /// The token without which this status is the answer.
    pub(super) token: Option<(&'static str, u16)>,
    /// Never answers a request for this file's contents.
    pub(super) hang_on: Option<&'static str>,
    /// The etag and commit of every file, in place of the right ones.
    pub(super) headers: Option<(&'static str, &'static str)>,
    /// The commit that the listing names.
    pub(super) commit: &'static str,
}

#[derive(Default)]
struct State {
    behaviour: Behaviour,
    /// `METHOD PATH` and the `Range` header of every request.
    log: Vec<(String, String)>,
}

pub(super) struct Hub {
    pub(super) endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Hub {
    /// Serves the files in `dir` as `owner/model` until the process ends.
    pub(super) fn serve(dir: &Path) -> Self {
        let read = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
        let files: BTreeMap<_, _> = fs::read_dir(dir).unwrap().map(|entry| read(entry.unwrap())).collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        state.lock().unwrap().behaviour.commit = COMMIT;
        let (shared, files) = (state.clone(), Arc::new(files));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, files) = (shared.clone(), files.clone());
                thread::spawn(move || answer(stream, &state, &files));
            }
        });
        Self { endpoint, state }
    }

    pub(super) fn set(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.state().behaviour);
    }

    /// `METHOD PATH` of every request so far.
    pub(super) fn requests(&self) -> Vec<String> {
        self.state().log.iter().map(|(request, _)| request.clone()).collect()
    }

    /// The parts of `file` that were asked for, without the questions for its size.
    pub(super) fn ranges(&self, file: &str) -> Vec<String> {
        let asked = |(request, range): &(String, String)| request.ends_with(file) && range != SIZE_ONLY;
        self.state().log.iter().filter(|entry| asked(entry)).map(|(_, range)| range.clone()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// The first line's method and path, and the headers, their names in small letters.
fn read_request(stream: &TcpStream) -> Option<(String, BTreeMap<String, String>)> {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let request = lines.next()?.rsplit_once(' ')?.0.to_owned();
    let headers = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())));
    Some((request, headers.collect()))
}

fn send(mut stream: &TcpStream, status: &str, headers: &str, body: &[u8]) {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    // A client that has hung up is part of the game.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

fn answer(stream: TcpStream, state: &Mutex<State>, files: &BTreeMap<String, Vec<u8>>) {
    let Some((request, headers)) = read_request(&stream) else { return };
    let range = headers.get("range").cloned().unwrap_or_default();
    let mut state = state.lock().unwrap();
    state.log.push((request.clone(), range.clone()));
    let behaviour = &mut state.behaviour;
    let path = request.split(' ').nth(1).unwrap_or_default();
    if let Some((token, status)) = behaviour.token
        && headers.get("authorization").is_none_or(|header| *header != format!("Bearer {token}"))
    {
        return send(&stream, &format!("{status} No"), "", &[]);
    }
    if path.starts_with("/api/models/owner/model/revision/") {
        let siblings: Vec<_> = files.keys().map(|file| serde_json::json!({"rfilename": file})).collect();
        let body = serde_json::json!({"sha": behaviour.commit, "siblings": siblings}).to_string();
        return send(&stream, "200 OK", "", body.as_bytes());
    }
    let place = ["/owner/model/resolve/", "/elsewhere/"].into_iter().find_map(|at| path.strip_prefix(at));
    let file = place.and_then(|place| place.strip_prefix(COMMIT)).and_then(|file| file.strip_prefix('/'));
    let Some((file, content)) = file.and_then(|file| files.get_key_value(file)) else {
        return send(&stream, "404 Not Found", "", &[]);
    };
    if behaviour.hang_on == Some(file.as_str()) && range != SIZE_ONLY {
        drop(state);
        thread::park();
        return;
    }
    send_file(&stream, behaviour, file, content, &range, path.starts_with("/elsewhere/"));
}

fn send_file(
    mut stream: &TcpStream,
    behaviour: &mut Behaviour,
    file: &str,
    content: &[u8],
    range: &str,
    redirected: bool,
) {
    let etag = format!("{:032x}", file.bytes().fold(7_u128, |sum, byte| sum.wrapping_mul(131) + u128::from(byte)));
    let (etag, commit) = behaviour.headers.map_or((etag.as_str(), COMMIT), |(etag, commit)| (etag, commit));
    let facts = format!("ETag: \"{etag}\"\r\nX-Repo-Commit: {commit}\r\n");
    if behaviour.redirect && !redirected {
        return send(stream, "302 Found", &format!("{facts}Location: /elsewhere/{COMMIT}/{file}\r\n"), &[]);
    }
    let whole = behaviour.ignore_ranges && range != SIZE_ONLY;
    let (from, to) = if whole { (0, content.len()) } else { bounds(range, content.len()) };
    let status = if range.is_empty() || whole { "200 OK" } else { "206 Partial Content" };
    if from >= content.len() {
        return send(stream, "416 Range Not Satisfiable", &facts, &[]);
    }
    let place = format!("{facts}Content-Range: bytes {from}-{}/{}\r\n", to - 1, content.len());
    let cut = behaviour.break_after.iter().position(|(name, _)| *name == file && range != SIZE_ONLY);
    let Some(cut) = cut else { return send(stream, status, &place, &content[from..to]) };
    let sent = behaviour.break_after.remove(cut).1;
    let head = format!("HTTP/1.1 {status}\r\n{place}Content-Length: {}\r\nConnection: close\r\n\r\n", to - from);
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&content[from..to.min(from + sent)]));
}

/// The part that a `Range` header asks for.
fn bounds(range: &str, size: usize) -> (usize, usize) {
    let (from, to) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).unwrap_or(("0", ""));
    let to = to.parse::<usize>().map_or(size, |to| (to + 1).min(size));
    (from.parse().unwrap_or(0), to)
}
