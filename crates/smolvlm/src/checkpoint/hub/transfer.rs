//! Files of a hub: what it says of them, and their bytes.
//!
//! The hub crate sends its token wherever the hub redirects to; here it goes to the hub's own origin only.

use std::fs::{File, OpenOptions};
use std::io::{Error as IoError, ErrorKind as IoKind, Read, Write};
use std::path::{Path, PathBuf};

use hf_hub::api::sync::ApiError;
use sha2::{Digest, Sha256};
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};
use url::Url;

/// As many redirects as the reference's client follows.
const MAX_REDIRECTS: usize = 20;
const PIECE: usize = 256 << 10;

/// What the hub says of a file.
pub(super) struct RemoteFile {
    pub(super) commit: String,
    pub(super) etag: String,
    pub(super) size: u64,
}

/// A client of one hub.
pub(super) struct Transfer {
    agent: Agent,
    token: Option<String>,
}

/// The answer at the end of all redirects, and the headers of the last that the hub gave itself.
struct Answer {
    own: HeaderMap,
    last: Response<Body>,
}

impl Transfer {
    pub(super) fn new(token: Option<String>) -> Self {
        let config = Agent::config_builder()
            .user_agent(concat!("smolvlm/", env!("CARGO_PKG_VERSION")))
            .max_redirects(0)
            .http_status_as_error(false);
        Self { agent: config.build().into(), token }
    }

    /// Size and identity of the file behind `url`.
    pub(super) fn metadata(&self, url: &str) -> Result<RemoteFile, ApiError> {
        let Answer { own, last } = self.get(url, "bytes=0-0")?;
        let header = |headers: &HeaderMap, name: &'static str| -> Option<String> {
            Some(headers.get(name)?.to_str().ok()?.to_owned())
        };
        let etag = header(&own, "x-linked-etag").or_else(|| header(&own, "etag")).unwrap_or_default();
        let range = header(last.headers(), "content-range");
        let ranged = range.and_then(|range| range.rsplit('/').next()?.parse().ok());
        let linked = || header(&own, "x-linked-size")?.parse().ok();
        // A server that ignores ranges sends the whole file.
        let whole = || header(last.headers(), "content-length")?.parse().ok();
        let size = ranged.or_else(linked).or_else(whole);
        Ok(RemoteFile {
            commit: header(&own, "x-repo-commit").unwrap_or_default(),
            etag: etag.trim_start_matches("W/").replace('"', ""),
            size: size.ok_or_else(|| invalid("the server does not say how large the file is"))?,
        })
    }

    /// Fetches what `part` lacks of a file, checks it, and makes it `blob`. `progress` gets the bytes that are there.
    pub(super) fn download(
        &self,
        url: &str,
        file: &RemoteFile,
        blob: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), ApiError> {
        if let Some(folder) = blob.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let lock = lock_of(blob)?;
        let locked = File::create(&lock)?;
        locked.try_lock().map_err(|_| ApiError::LockAcquisition(lock))?;
        let part = blob.with_extension("part");
        let mut out = OpenOptions::new().create(true).append(true).open(&part)?;
        let mut present = out.metadata()?.len();
        if present >= file.size {
            // Asking for what follows the last byte would be refused for ever.
            out.set_len(0)?;
            present = 0;
        }
        let last = self.get(url, &format!("bytes={present}-"))?.last;
        let range = last.headers().get("content-range").and_then(|range| range.to_str().ok());
        if last.status() != 206 {
            out.set_len(0)?;
            present = 0;
        } else if !range.is_none_or(|range| range.starts_with(&format!("bytes {present}-"))) {
            return Err(invalid("the server sends another part of the file than was asked for"));
        }
        progress(present);
        let mut body = last.into_body().into_reader();
        let mut piece = vec![0; PIECE];
        while present <= file.size {
            let count = body.read(&mut piece)?;
            if count == 0 {
                break;
            }
            out.write_all(&piece[..count])?;
            present += count as u64;
            progress(present.min(file.size));
        }
        out.sync_all()?;
        if present < file.size {
            let (size, got) = (file.size, present);
            return Err(IoError::new(IoKind::UnexpectedEof, format!("expected {size} bytes, got {got}")).into());
        }
        if let Err(error) = check(&part, present, file) {
            std::fs::remove_file(&part)?;
            return Err(error);
        }
        std::fs::rename(&part, blob)?;
        Ok(())
    }

    /// Follows redirects. The token goes to the origin of `url` only.
    fn get(&self, url: &str, range: &str) -> Result<Answer, ApiError> {
        let origin = Url::parse(url).map_err(|_| invalid("the file's URL is malformed"))?;
        let mut place = origin.clone();
        let mut own = HeaderMap::new();
        for _ in 0..=MAX_REDIRECTS {
            let is_own = place.origin() == origin.origin();
            let mut request = self.agent.get(place.as_str()).header("range", range);
            if let (Some(token), true) = (&self.token, is_own) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let last = request.call().map_err(Box::new)?;
            if is_own {
                own = last.headers().clone();
            }
            if last.status().is_success() {
                return Ok(Answer { own, last });
            }
            if !last.status().is_redirection() {
                return Err(Box::new(ureq::Error::StatusCode(last.status().as_u16())).into());
            }
            let location = last.headers().get("location").and_then(|location| location.to_str().ok());
            let target = location.and_then(|location| place.join(location).ok());
            place = target.ok_or_else(|| invalid("the server redirects to nowhere"))?;
        }
        Err(Box::new(ureq::Error::TooManyRedirects).into())
    }
}

/// The lock of a blob, `CACHE/.locks/MODEL/ETAG.lock` for `CACHE/MODEL/blobs/ETAG`: the Python client takes the same one
/// (`file_download.py: _hf_hub_download_to_cache_dir`). Its folder is made.
fn lock_of(blob: &Path) -> Result<PathBuf, IoError> {
    let names = || {
        let model = blob.parent()?.parent()?;
        Some((model.parent()?.join(".locks").join(model.file_name()?), blob.file_name()?))
    };
    let (folder, name) = names().ok_or_else(|| IoError::other("the cache is not where caches are"))?;
    std::fs::create_dir_all(&folder)?;
    Ok(folder.join(name).with_extension("lock"))
}

/// Size, and contents where the etag is their SHA-256, as it is for large files.
fn check(part: &Path, size: u64, file: &RemoteFile) -> Result<(), ApiError> {
    if size != file.size {
        return Err(invalid(&format!("expected {} bytes, got {size}", file.size)));
    }
    let is_sha256 = file.etag.len() == 64 && file.etag.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_sha256 {
        return Ok(());
    }
    let (mut digest, mut content, mut piece) = (Sha256::new(), File::open(part)?, vec![0; PIECE]);
    while let count @ 1.. = content.read(&mut piece)? {
        digest.update(&piece[..count]);
    }
    let found: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found.eq_ignore_ascii_case(&file.etag) {
        return Ok(());
    }
    Err(invalid(&format!("its SHA-256 is {found}, the hub announced {}", file.etag)))
}

fn invalid(what: &str) -> ApiError {
    IoError::new(IoKind::InvalidData, what.to_owned()).into()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A server that answers every request with `answer`; and the heads of the requests.
    fn serve(answer: String) -> (u16, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = heads.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let lines = BufReader::new(&stream).lines().map_while(Result::ok);
                seen.lock().unwrap().push(lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n"));
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        (port, heads)
    }

    fn transfer() -> Transfer {
        Transfer::new(Some("secret".to_owned()))
    }

    #[test]
    fn the_token_goes_to_the_hub_only() {
        let size = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-0/5\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx";
        let (elsewhere, seen_elsewhere) = serve(size.to_owned());
        let redirect = format!(
            "HTTP/1.1 302 Found\r\nLocation: http://localhost:{elsewhere}/blob\r\nX-Repo-Commit: c\r\nX-Linked-Etag: \"e\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let (hub, seen_by_hub) = serve(redirect);
        let file = transfer().metadata(&format!("http://127.0.0.1:{hub}/file")).unwrap();
        assert_eq!((file.commit.as_str(), file.etag.as_str(), file.size), ("c", "e", 5));
        assert!(seen_by_hub.lock().unwrap()[0].to_lowercase().contains("authorization: bearer secret"));
        let elsewhere = seen_elsewhere.lock().unwrap();
        assert!(elsewhere.len() == 1 && !elsewhere[0].contains("secret"), "{elsewhere:?}");
    }

    #[test]
    fn bytes_other_than_the_announced_ones_are_not_kept() {
        let answer = "HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
        let (port, _) = serve(answer.to_owned());
        let folder = tempfile::tempdir().unwrap();
        let hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        for (etag, size, is_kept) in
            [(hello, 5, true), (&"0".repeat(64)[..], 5, false), ("e", 4, false), ("e", 6, false)]
        {
            let blob = folder.path().join(format!("models--a--b/blobs/{etag}{size}"));
            let file = RemoteFile { commit: String::new(), etag: etag.to_owned(), size };
            let url = format!("http://127.0.0.1:{port}/file");
            let result = transfer().download(&url, &file, &blob, &mut |_| {});
            assert_eq!((result.is_ok(), blob.exists()), (is_kept, is_kept), "{etag} {size}");
        }
    }

    #[test]
    fn a_file_that_another_client_fetches_is_left_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let blob = folder.path().join("models--a--b/blobs/e");
        let lock = folder.path().join(".locks/models--a--b/e.lock");
        std::fs::create_dir_all(lock.parent().unwrap()).unwrap();
        let held = File::create(&lock).unwrap();
        held.lock().unwrap();
        let file = RemoteFile { commit: String::new(), etag: "e".to_owned(), size: 5 };
        let error = transfer().download("http://127.0.0.1:1/file", &file, &blob, &mut |_| {}).unwrap_err();
        assert!(matches!(error, ApiError::LockAcquisition(path) if path == lock));
    }
}
