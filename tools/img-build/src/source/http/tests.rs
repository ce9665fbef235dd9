use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::*;

/// A server on loopback, which lives as long as the test program.
struct Server {
    address: String,
    log: Arc<Mutex<Vec<String>>>,
}

/// What it answers: a status, headers, and a body that may be cut off.
type Answer = (u16, String, Vec<u8>);

impl Server {
    fn start(answer: impl Fn(&str, usize) -> Answer + Send + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let log = Arc::new(Mutex::new(Vec::new()));
        let shared = log.clone();
        thread::spawn(move || {
            for (n, stream) in listener.incoming().enumerate() {
                // Who hangs up early is what some tests are about.
                let _ = serve(stream.unwrap(), &shared, |path| answer(path, n));
            }
        });
        Server { address, log }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

fn serve(
    mut stream: TcpStream,
    log: &Mutex<Vec<String>>,
    answer: impl Fn(&str) -> Answer,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    let mut said = String::new();
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        for name in ["authorization: ", "if-none-match: ", "if-modified-since: "] {
            if let Some(value) = line.strip_prefix(name) {
                said.push_str(&format!(" {value}"));
            }
        }
    }
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let asked = format!("{path}{said}");
    log.lock().unwrap().push(asked.clone());
    let (status, headers, body) = answer(&asked);
    write!(stream, "HTTP/1.1 {status} X\r\nconnection: close\r\n{headers}")?;
    if !headers.contains("content-length") {
        write!(stream, "content-length: {}\r\n", body.len())?;
    }
    stream.write_all(b"\r\n")?;
    stream.write_all(&body)
}

/// Fetches, with these secrets; returns what was fetched, and what is left when it is gone.
fn fetch(
    url: &str,
    checksum: Option<&Digest>,
    secrets: &[(&str, &str)],
) -> Result<(Fetched, PathBuf)> {
    let dir = tempfile::tempdir().unwrap().keep();
    let fetched = fetch_to(&dir, url, checksum, secrets);
    if fetched.is_err() {
        std::fs::remove_dir(&dir).expect("nothing is kept");
    }
    fetched.map(|fetched| (fetched, dir))
}

fn fetch_to(
    dir: &Path,
    url: &str,
    checksum: Option<&Digest>,
    secrets: &[(&str, &str)],
) -> Result<Fetched> {
    let scratch = || Ok(dir.to_owned());
    let secret = |name: &str| {
        let found = secrets.iter().find(|(known, _)| *known == name);
        Ok(found.map(|(_, value)| value.as_bytes().to_vec()))
    };
    let mut elsewhere = Elsewhere::new(&scratch, &secret);
    elsewhere.backoff = Duration::from_millis(2);
    get(url, checksum, &elsewhere)
}

fn refused(url: &str) -> String {
    match fetch(url, None, &[]) {
        Ok(_) => panic!("{url} is there"),
        Err(err) => line(&err),
    }
}

fn ok(body: &str) -> Answer {
    (200, String::new(), body.into())
}

#[test]
fn a_file_has_its_name_its_time_and_is_private() {
    let date = "last-modified: Tue, 14 Nov 2023 22:13:20 GMT\r\n";
    let server = Server::start(move |_, _| (200, date.into(), b"hi\n".into()));
    let (fetched, dir) = fetch(&server.url("a/b%20c?x=y"), None, &[]).unwrap();
    assert_eq!((fetched.name.as_str(), fetched.size, fetched.mtime), ("b c", 3, 1_700_000_000));
    assert_eq!(fetched.digest, Digest::of(b"hi\n"));
    let file = fetched.open().unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
    assert!(metadata.modified().unwrap().elapsed().unwrap().as_secs() > 3600);
    assert_eq!(std::io::read_to_string(file).unwrap(), "hi\n");
    drop(fetched);
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0, "it goes with its tree");
}

#[test]
fn a_checksum_is_kept_to() {
    let server = Server::start(|_, _| ok("hi\n"));
    let right = Digest::of(b"hi\n");
    fetch(&server.url("a"), Some(&right), &[]).unwrap();
    let wrong = Digest::of(b"ho\n");
    let err = fetch(&server.url("a"), Some(&wrong), &[]).err().unwrap();
    let expected = format!("{}: its digest is {right}, and not {wrong}", server.url("a"));
    assert_eq!(line(&err), expected);
    let mut hasher = format!("sha512:{}", "0".repeat(128)).parse::<Digest>().unwrap().hasher();
    hasher.update(b"hi\n");
    let long = hasher.finish();
    assert_eq!(fetch(&server.url("a"), Some(&long), &[]).unwrap().0.digest, long);
    assert!(checksum("md5:00").is_err() && checksum(&right.to_string()).is_ok());
}

#[test]
fn redirects_lead_to_the_web_only() {
    let bait = tempfile::NamedTempFile::new().unwrap();
    let file = format!("file://{}", bait.path().display());
    let server = Server::start(move |path, _| {
        let to = match path.split(' ').next().unwrap_or_default() {
            "/a" => "/b",
            "/b" => return ok("hi"),
            "/loop" => "/loop",
            "/nowhere" => return (302, String::new(), Vec::new()),
            _ => &file,
        };
        (302, format!("location: {to}\r\n"), Vec::new())
    });
    // The name is that of the URL in the Dockerfile.
    assert_eq!(fetch(&server.url("a"), None, &[]).unwrap().0.name, "a");
    assert!(refused(&server.url("file")).contains("which is no web address"));
    assert!(refused(&server.url("loop")).contains("more than 10 redirects"));
    assert!(refused(&server.url("nowhere")).contains("a redirect to nowhere"));
}

#[test]
fn what_may_pass_is_tried_again_from_the_start() {
    let server = Server::start(|_, n| match n {
        0 => (503, String::new(), b"busy".into()),
        1 => (200, "content-length: 100\r\n".into(), b"only a part".into()),
        _ => ok("all"),
    });
    let (fetched, _) = fetch(&server.url("a"), None, &[]).unwrap();
    assert_eq!(std::io::read_to_string(fetched.open().unwrap()).unwrap(), "all");
    assert_eq!((fetched.size, fetched.digest), (3, Digest::of(b"all")));
    assert_eq!(server.log().len(), 3);
}

#[test]
fn a_no_is_said() {
    let server = Server::start(|path, _| match path {
        "/none?token=hunter2" => (404, String::new(), Vec::new()),
        "/late" => (429, "retry-after: 86400\r\n".into(), Vec::new()),
        _ => (401, String::new(), Vec::new()),
    });
    let none = server.url("none");
    assert_eq!(refused(&format!("{none}?token=hunter2")), format!("{none}: not found"));
    assert_eq!(refused(&server.url("late")), format!("{}: too many requests", server.url("late")));
    let err = fetch(&server.url("private"), None, &[]).err().unwrap();
    assert_eq!(hint_of(&err), Some("--secret id=HTTP_AUTH_TOKEN_HOST,env=TOKEN"));
    assert_eq!(server.log().len(), 3);
}

#[test]
fn who_we_are_is_said_to_one_server() {
    let other = Server::start(|_, _| ok("hi"));
    let to = other.url("b");
    let server = Server::start(move |_, _| (302, format!("location: {to}\r\n"), Vec::new()));
    let with_user = server.url("a").replace("http://", "http://me:hunter2@");
    let (fetched, _) = fetch(&with_user, None, &[]).unwrap();
    assert!(!fetched.tree.name.contains("hunter2"));
    let token = format!("HTTP_AUTH_TOKEN_{}", server.address);
    fetch(&server.url("a"), None, &[(&token, "hunter2\n")]).unwrap();
    let header = format!("HTTP_AUTH_HEADER_{}", server.address);
    fetch(&server.url("a"), None, &[(&token, "x"), (&header, "Magic y")]).unwrap();
    assert_eq!(server.log(), ["/a Basic bWU6aHVudGVyMg==", "/a Bearer hunter2", "/a Magic y"]);
    assert_eq!(other.log(), ["/b", "/b", "/b"]);
}

fn text(fetched: &Fetched) -> String {
    std::io::read_to_string(fetched.open().unwrap()).unwrap()
}

#[test]
fn what_has_not_changed_does_not_come_again() {
    let etag = "etag: \"1\"\r\nlast-modified: Tue, 14 Nov 2023 22:13:20 GMT\r\n";
    let server = Server::start(move |asked, n| match (asked, n) {
        ("/a \"1\"", 2) => (200, "etag: \"2\"\r\n".into(), b"new".into()),
        ("/a \"1\"" | "/a \"2\"", _) => (304, String::new(), Vec::new()),
        ("/time", _) => {
            (200, "last-modified: Tue, 14 Nov 2023 22:13:20 GMT\r\n".into(), b"t".into())
        }
        ("/time Tue, 14 Nov 2023 22:13:20 GMT", _) => (304, String::new(), Vec::new()),
        ("/a", _) => (200, etag.into(), b"old".into()),
        _ => (500, String::new(), Vec::new()),
    });
    let dir = tempfile::tempdir().unwrap();
    let get = |path: &str| fetch_to(dir.path(), &server.url(path), None, &[]).unwrap();
    for (n, expected) in ["old", "old", "new", "new"].into_iter().enumerate() {
        let fetched = get("a");
        assert_eq!(text(&fetched), expected, "{n}");
        assert_eq!(fetched.digest, Digest::of(expected.as_bytes()));
        assert_eq!(fetched.mtime, if n < 2 { 1_700_000_000 } else { 0 });
    }
    assert_eq!(server.log(), ["/a", "/a \"1\"", "/a \"1\"", "/a \"2\""]);
    assert_eq!((text(&get("time")), text(&get("time"))), ("t".into(), "t".into()));
}

#[test]
fn what_has_the_checksum_is_not_asked_for() {
    let server = Server::start(|_, n| match n {
        0 => (200, "etag: \"1\"\r\n".into(), b"hi".into()),
        _ => (200, "etag: \"2\"\r\n".into(), b"ho".into()),
    });
    let dir = tempfile::tempdir().unwrap();
    let (hi, ho, neither) = (Digest::of(b"hi"), Digest::of(b"ho"), Digest::of(b"else"));
    let get = |checksum| fetch_to(dir.path(), &server.url("a"), Some(checksum), &[]);
    for _ in 0..3 {
        assert_eq!(text(&get(&hi).unwrap()), "hi");
    }
    assert_eq!(server.log(), ["/a"]);
    // Another one is, without a condition; what has neither is not kept.
    assert!(get(&neither).is_err());
    assert_eq!(text(&get(&hi).unwrap()), "hi");
    assert_eq!(text(&get(&ho).unwrap()), "ho");
    assert_eq!(server.log(), ["/a"; 3]);
}

#[test]
fn what_is_kept_is_believed_only_if_it_is_whole() {
    for spoil in [
        |path: &Path| std::fs::write(path, "wrong").unwrap(),
        |path: &Path| std::fs::write(path, "").unwrap(),
        |path: &Path| std::fs::write(path, "{\"digest\":\"x\"}").unwrap(),
        |path: &Path| std::fs::remove_file(path).unwrap(),
        |path: &Path| {
            std::fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink("/dev/zero", path).unwrap();
        },
    ] {
        for file in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let server = Server::start(|asked, _| match asked.starts_with("/hunter2 Basic") {
                true if asked.ends_with("\"1\"") => (304, String::new(), Vec::new()),
                _ => (200, "etag: \"1\"\r\n".into(), b"right".into()),
            });
            let url = format!("http://me:hunter3@{}/hunter2", server.address);
            assert_eq!(text(&fetch_to(dir.path(), &url, None, &[]).unwrap()), "right");
            let kept = std::fs::read_dir(dir.path().join("web")).unwrap();
            let kept: Vec<PathBuf> = kept.map(|it| it.unwrap().path()).collect();
            assert_eq!(kept.len(), 2);
            for path in &kept {
                let bytes = String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
                assert!(
                    !bytes.contains("hunter") && !path.display().to_string().contains("hunter")
                );
                if path.extension().is_some() == file {
                    spoil(path);
                }
            }
            for _ in 0..2 {
                assert_eq!(text(&fetch_to(dir.path(), &url, None, &[]).unwrap()), "right");
            }
        }
    }
}

#[test]
fn a_server_decides_about_its_own_files_alone() {
    // Both say "1" of different files, and a redirect leads to one, then to the other.
    let other = Server::start(|asked, _| match asked {
        "/f" => (200, "etag: \"1\"\r\n".into(), b"other".into()),
        _ => (304, String::new(), Vec::new()),
    });
    let to = [other.url("f"), "/own".to_owned()];
    let server = Server::start(move |asked, n| match asked.split(' ').next().unwrap_or_default() {
        "/own" if asked == "/own" => (200, "etag: \"1\"\r\n".into(), b"own".into()),
        "/own" => (304, String::new(), Vec::new()),
        _ => (302, format!("location: {}\r\n", to[usize::from(n < 2)]), Vec::new()),
    });
    let dir = tempfile::tempdir().unwrap();
    let get = |path: &str| text(&fetch_to(dir.path(), &server.url(path), None, &[]).unwrap());
    assert_eq!(get("a"), "own");
    assert_eq!(get("a"), "other");
    assert_eq!(get("a"), "other");
    // What is kept of one URL says nothing of another.
    assert_eq!(get("own"), "own");
}

#[test]
fn what_is_not_to_be_kept_is_not() {
    let recent = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    for headers in [
        "".to_owned(),
        "etag: W/\"1\"\r\n".into(),
        "etag: \"1\"\r\ncache-control: private, No-Store\r\n".into(),
        format!("last-modified: {recent}\r\n"),
        format!("etag: \"{}\"\r\n", "x".repeat(2000)),
    ] {
        let said = headers.clone();
        let server = Server::start(move |_, _| (200, said.clone(), b"x".into()));
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            fetch_to(dir.path(), &server.url("a"), None, &[]).unwrap();
        }
        assert_eq!(server.log(), ["/a", "/a"], "{headers}");
        assert!(!dir.path().join("web").exists(), "{headers}");
    }
}

/// Whoever answers once in the server's place would have his own file kept for good.
#[test]
fn what_comes_over_plain_http_is_not_believed_again() {
    let server = Server::start(|asked, _| match asked.contains("\"1\"") {
        true => (304, String::new(), Vec::new()),
        false => (200, "etag: \"1\"\r\n".into(), b"hi".into()),
    });
    let dir = tempfile::tempdir().unwrap();
    let url = |path: &str| server.url(path).replace("127.0.0.1", "0.0.0.0");
    let get = |checksum| text(&fetch_to(dir.path(), &url("a"), checksum, &[]).unwrap());
    assert_eq!((get(None), get(None)), ("hi".into(), "hi".into()));
    assert_eq!(server.log(), ["/a", "/a"]);
    assert!(!dir.path().join("web").exists());
    // One of a checksum is what it is.
    let hi = Digest::of(b"hi");
    assert_eq!((get(Some(&hi)), get(Some(&hi))), ("hi".into(), "hi".into()));
    assert_eq!(server.log().len(), 3);
    assert_eq!(get(None), "hi");
    assert_eq!(server.log(), ["/a"; 4]);
}
