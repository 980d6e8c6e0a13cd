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
        let asked = |(request, range): &(String, String)| request.ends_with(file) && range != "bytes=0-0";
        self.state().log.iter().filter(|entry| asked(entry)).map(|(_, range)| range.clone()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>, files: &BTreeMap<String, Vec<u8>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(request) = lines.next() else { return };
    let headers: BTreeMap<String, String> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())))
        .collect();
    let request = request.rsplit_once(' ').map_or("", |(request, _)| request).to_owned();
    let range = headers.get("range").cloned().unwrap_or_default();
    let mut state = state.lock().unwrap();
    state.log.push((request.clone(), range.clone()));
    let behaviour = &mut state.behaviour;
    let path = request.split(' ').nth(1).unwrap_or_default();

    if let Some((token, status)) = behaviour.token
        && headers.get("authorization").is_none_or(|header| *header != format!("Bearer {token}"))
    {
        let _ = write!(stream, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
    }
    if path.starts_with("/api/models/owner/model/revision/") {
        let siblings: Vec<_> = files.keys().map(|file| serde_json::json!({"rfilename": file})).collect();
        let body = serde_json::json!({"sha": behaviour.commit, "siblings": siblings}).to_string();
        let length = body.len();
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        return;
    }
    let place = ["/owner/model/resolve/", "/elsewhere/"].into_iter().find_map(|at| path.strip_prefix(at));
    let file = place.and_then(|place| place.strip_prefix(COMMIT)).and_then(|file| file.strip_prefix('/'));
    let Some((file, content)) = file.and_then(|file| files.get_key_value(file)) else {
        let _ = write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
    };
    if behaviour.hang_on == Some(file.as_str()) && range != "bytes=0-0" {
        drop(state);
        thread::park();
        return;
    }
    let etag = format!("{:032x}", file.bytes().fold(7_u128, |sum, byte| sum * 131 + u128::from(byte)));
    let (etag, commit) = behaviour.headers.map_or((etag.as_str(), COMMIT), |(etag, commit)| (etag, commit));
    let facts = format!("ETag: \"{etag}\"\r\nX-Repo-Commit: {commit}\r\nConnection: close\r\n");
    if behaviour.redirect && !path.starts_with("/elsewhere/") {
        let place = format!("/elsewhere/{COMMIT}/{file}");
        let _ = write!(stream, "HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n{facts}\r\n");
        return;
    }
    let whole = behaviour.ignore_ranges && range != "bytes=0-0";
    let (from, to) = if whole { (0, content.len()) } else { bounds(&range, content.len()) };
    let status = if range.is_empty() || whole { "200 OK" } else { "206 Partial Content" };
    if from >= content.len() {
        let _ = write!(stream, "HTTP/1.1 416 No\r\nContent-Length: 0\r\n{facts}\r\n");
        return;
    }
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{}\r\n{facts}\r\n",
        to - from,
        to - 1,
        content.len()
    );
    let cut = (range != "bytes=0-0").then(|| behaviour.break_after.iter().position(|(name, _)| name == file)).flatten();
    let sent = cut.map_or(to - from, |cut| behaviour.break_after.remove(cut).1.min(to - from));
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&content[from..from + sent]));
}

/// The part that a `Range` header asks for.
fn bounds(range: &str, size: usize) -> (usize, usize) {
    let (from, to) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).unwrap_or(("0", ""));
    let to = to.parse::<usize>().map_or(size, |to| (to + 1).min(size));
    (from.parse().unwrap_or(0), to)
}
