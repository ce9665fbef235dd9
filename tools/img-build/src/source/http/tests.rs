use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
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
    let mut authorization = String::new();
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((_, value)) = line.split_once("authorization: ") {
            authorization = format!(" {value}");
        }
    }
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    log.lock().unwrap().push(format!("{path}{authorization}"));
    let (status, headers, body) = answer(&path);
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
    let scratch = || Ok(dir.clone());
    let secret = |name: &str| {
        let found = secrets.iter().find(|(known, _)| *known == name);
        Ok(found.map(|(_, value)| value.as_bytes().to_vec()))
    };
    let mut elsewhere = Elsewhere::new(&scratch, &secret);
    elsewhere.backoff = Duration::from_millis(2);
    let fetched = get(url, checksum, &elsewhere);
    if fetched.is_err() {
        std::fs::remove_dir(&dir).expect("nothing is kept");
    }
    fetched.map(|fetched| (fetched, dir))
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
    std::fs::remove_dir(dir).expect("it goes with its tree");
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
        let to = match path {
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
