//! Which repositories there are.

use sandbox::image::{busybox, full_name};
use sandbox::{Sandbox, lacks};

use super::server::Server;

#[test]
fn an_image_is_offered_under_its_name_and_found_by_it() {
    let t = Sandbox::new();
    for name in ["app:1", "team/app:1", "ghcr.io/team/app:2", "localhost:5000/team/app:3"] {
        t.store(busybox(), name);
    }
    let server = Server::start(&t, "");
    let table = [
        ("app", "1", "200"),
        ("library/app", "1", "200"),
        ("docker.io/library/app", "1", "200"),
        ("app", "2", "404 MANIFEST_UNKNOWN"),
        ("team/app", "1", "200"),
        ("team/app", "2", "200"),
        ("team/app", "3", "200"),
        ("ghcr.io/team/app", "2", "200"),
        ("ghcr.io/team/app", "1", "404 MANIFEST_UNKNOWN"),
        ("nosuch", "1", "404 NAME_UNKNOWN"),
    ];
    for (repository, tag, says) in table {
        let path = format!("GET /v2/{repository}/manifests/{tag}");
        assert_eq!(server.says(&path), says, "{path}");
    }
    assert_eq!(
        server.get("/v2/_catalog").json()["repositories"],
        serde_json::json!(["app", "team/app"])
    );
    let tags = server.get("/v2/team/app/tags/list").json();
    assert_eq!(tags, serde_json::json!({ "name": "team/app", "tags": ["1", "2", "3"] }));

    // As docker would have it: the short name of Docker Hub's own, and the long one.
    for name in ["app:1", "library/app:1", "team/app:2"] {
        let digest = &busybox().digest;
        t.sh(&format!("img-pull -q --layout out {}/{name}", server.address))
            .prints(&format!("./out:{}/{name}@{digest}\n", server.address));
    }
}

#[test]
fn what_is_tagged_while_it_runs_is_offered_at_once() {
    let t = Sandbox::with_image("app:1");
    let server = Server::start(&t, "");
    for tag in ["2", "3", "4"] {
        assert_eq!(server.get(&format!("/v2/app/manifests/{tag}")).status, 404);
        t.sh(&format!("img-tag app:1 app:{tag} >/dev/null")).is_silent();
        assert_eq!(server.get(&format!("/v2/app/manifests/{tag}")).status, 200);
    }
    let tags = server.get("/v2/app/tags/list").json();
    assert_eq!(tags["tags"], serde_json::json!(["1", "2", "3", "4"]));
}

#[test]
fn a_layout_of_somebody_else_is_served_as_it_is() {
    if lacks(&["jq"]) {
        return;
    }
    let t = Sandbox::new();
    // A bare name as skopeo and umoci write it, and a blob that is a link inside the layout.
    busybox().copy_to(&t.path("work/theirs"), "app");
    let layer = busybox().manifest()["layers"][0]["digest"].as_str().unwrap().to_owned();
    let hex = layer.strip_prefix("sha256:").unwrap();
    t.sh(&format!(
        "cd theirs && mv blobs/sha256/{hex} elsewhere && ln -s ../../elsewhere blobs/sha256/{hex}"
    ))
    .is_silent();
    let before = t.sh("cd theirs && find . | sort | xargs -d '\\n' stat -c '%n %Y %i'").text();
    let server = Server::start(&t, "./theirs");
    t.sh(&format!("img-pull -q {}/app", server.address)).prints(&format!(
        "{}/app:latest@{}\n",
        server.address,
        busybox().digest
    ));
    // One that leads out is not.
    t.sh(&format!("cd theirs && ln -sf /etc/passwd blobs/sha256/{hex}")).is_silent();
    assert_eq!(server.says(&format!("GET /v2/app/blobs/{layer}")), "500 UNKNOWN");
    let said = server.stop();
    assert!(said.contains("a symlink that leaves the layout"), "{said}");
    t.sh(&format!("cd theirs && ln -sf ../../elsewhere blobs/sha256/{hex}")).is_silent();
    let names = |text: &str| {
        text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let after = t.sh("cd theirs && find . | sort | xargs -d '\\n' stat -c '%n %Y %i'").text();
    assert_eq!(names(&before), names(&after), "nothing is written to what is only read");
}

#[test]
fn a_tag_that_moved_on_can_still_be_had_by_digest() {
    let t = Sandbox::with_image("app:1");
    let other = busybox().with_config(&serde_json::json!({ "Cmd": ["other"] }));
    t.store(&other, "other:1");
    let server = Server::start(&t, "");
    t.sh("img-tag other:1 app:1 >/dev/null").is_silent();
    for digest in [&busybox().digest, &other.digest] {
        let answer = server.get(&format!("/v2/app/manifests/{digest}"));
        assert_eq!(
            (answer.says().as_str(), answer.header("docker-content-digest")),
            ("200", Some(digest.as_str()))
        );
    }
    assert_eq!(full_name("app:1"), "docker.io/library/app:1");
}

#[test]
fn ten_thousand_names_are_served() {
    if lacks(&["jq"]) {
        return;
    }
    let t = Sandbox::with_image("app:0");
    t.sh(r#"cd $TARE_ROOT/images && jq -c '.manifests = [.manifests[0] as $it | range(10000) | . as $n | $it
            | .annotations["org.opencontainers.image.ref.name"] = "docker.io/library/app:\($n)"]' index.json >new &&
            mv new index.json"#)
        .is_silent();
    let server = Server::start(&t, "");
    assert_eq!(server.get("/v2/app/tags/list").json()["tags"].as_array().unwrap().len(), 10_000);
    // A client that follows links finds each once.
    let (mut path, mut found) = ("/v2/app/tags/list?n=999".to_owned(), Vec::new());
    loop {
        let answer = server.get(&path);
        let tags = answer.json()["tags"].as_array().unwrap().clone();
        found.extend(tags.into_iter().map(|tag| tag.as_str().unwrap().to_owned()));
        match answer.header("link") {
            Some(link) => {
                let (target, relation) = link.split_once(';').unwrap();
                assert_eq!(relation, " rel=\"next\"");
                path = target.trim_matches(['<', '>']).to_owned();
            }
            None => break,
        }
    }
    let sorted = found.is_sorted() && found.windows(2).all(|pair| pair[0] != pair[1]);
    assert!(sorted && found.len() == 10_000, "{}", found.len());
    assert_eq!(server.get("/v2/app/manifests/9999").status, 200);
}
