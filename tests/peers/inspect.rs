//! What we say of an image, and what others say of it.

use sandbox::dockerd::Dockerd;
use sandbox::image::{Image, PACK, architecture, busybox_layer};
use sandbox::{Sandbox, lacks};
use serde_json::json;

use super::CONTAINERS;

/// Returns an image that says something of everything that others show.
fn image() -> Image {
    let layer = format!("mkdir etc; echo x >etc/x; {PACK}");
    let base = Image::new(&[&busybox_layer(), &layer], &json!({}));
    let mut config = base.config();
    config["created"] = json!("2005-01-02T03:04:05.123456789Z");
    config["author"] = json!("somebody <else>");
    config["architecture"] = json!(architecture());
    config["config"] = json!({
        "Cmd": ["sh", "-c", "echo \"a b\""], "Entrypoint": ["env"], "Env": ["PATH=/bin", "A=b c"],
        "ExposedPorts": { "80/tcp": {}, "53/udp": {} }, "Volumes": { "/data": {} }, "User": "1000:50",
        "Labels": { "a.b": "c", "k": "漢字" }, "StopSignal": "SIGINT", "WorkingDir": "/tmp",
    });
    config["history"] = json!([
        { "created": "2004-05-01T10:00:00Z", "created_by": "/bin/sh -c #(nop) ADD file:aaa in / " },
        { "created": "2004-05-02T10:00:00Z", "created_by": "ENV A=b", "empty_layer": true, "comment": "a comment" },
        { "created": "2004-05-03T10:00:00Z", "created_by": "COPY x /etc # a long line that is cut off in a table" },
    ]);
    base.with_whole_config(&config)
}

/// What of an object everybody shows, in one form: podman leaves out what is empty.
const COMMON: &str = r#"
    common() {
        jq -S '.[0] | { Created, Author, Architecture, Os, RootFS,
            Config: (.Config | { Cmd, Entrypoint, Env, ExposedPorts, Volumes, User, Labels, StopSignal, WorkingDir }) }'
    }
"#;

#[test]
fn podman_inspect_and_we() {
    if lacks(&["root", "podman", "skopeo", "jq"]) {
        return;
    }
    let t = Sandbox::new();
    t.store(&image(), "app:v1");
    t.sh(&format!(
        "{CONTAINERS} {COMMON}
         cd $TARE_ROOT/.. && id=$(podman pull -q oci:tare/images:docker.io/library/app:v1) &&
         podman inspect $id | common >theirs && img-inspect app:v1 | common >ours && diff theirs ours &&
         podman inspect -f '{{{{.Digest}}}}' $id && img-inspect -f '{{{{.Descriptor.Digest}}}}' app:v1"
    ))
    .prints(&format!("{0}\n{0}\n", image().digest));
}

#[test]
fn podman_history_and_we() {
    if lacks(&["root", "podman"]) {
        return;
    }
    let t = Sandbox::new();
    t.store(&image(), "app:v1");
    // What a step is called, and when and how it was made.
    t.sh(&format!(
        "{CONTAINERS}
         cd $TARE_ROOT/.. && id=$(podman pull -q oci:tare/images:docker.io/library/app:v1) &&
         podman history --no-trunc --format '{{{{.CreatedBy}}}}|{{{{.Comment}}}}' $id >theirs
         img-history --no-trunc --format '{{{{.CreatedBy}}}}|{{{{.Comment}}}}' app:v1 | diff theirs - && wc -l <theirs
         podman history -H=false --format '{{{{.CreatedAt}}}}' $id | sed 's/ +0000 UTC$/Z/; s/+00:00$/Z/; s/ /T/' >theirs
         img-history -H=false --format '{{{{.CreatedAt}}}}' app:v1 | diff theirs -"
    ))
    .prints("3\n");
}

#[test]
fn skopeo_inspect_and_we() {
    if lacks(&["skopeo", "jq"]) {
        return;
    }
    let t = Sandbox::new();
    t.store(&image(), "app:v1");
    t.sh("from=oci:$TARE_ROOT/images:docker.io/library/app:v1
          skopeo inspect --raw $from >theirs; img-inspect --raw app:v1 | cmp - theirs
          skopeo inspect --config --raw $from >theirs; img-inspect --config app:v1 | cmp - theirs
          skopeo inspect --config $from | jq -S '[.created, .architecture, .os, .config, .rootfs, .history]' >theirs
          img-inspect --config app:v1 | jq -S '[.created, .architecture, .os, .config, .rootfs, .history]' | diff theirs -
          skopeo inspect $from | jq -S '[.Digest, .Created, .Architecture, .Os, .Env, .Labels]' >theirs
          img-inspect app:v1 | jq -S '.[0] | [.Id, .Created, .Architecture, .Os, .Config.Env, .Config.Labels]' | diff theirs -
          skopeo inspect --raw $from | jq '.layers | map(.size) | add' >theirs
          img-history -H=false --format '{{.Size}}' app:v1 | jq -s add | diff theirs -")
        .is_silent();
}

/// What templates ask of an image: Go's engine answers for Docker, ours for us.
const TEMPLATES: [&str; 22] = [
    "{{.Os}}/{{.Architecture}} {{.Author}} {{.Created}}",
    "{{.RepoTags}} {{len .RootFS.Layers}} {{.RootFS.Type}}",
    "{{.Config.Env}} {{json .Config.Env}} {{join .Config.Env \";\"}}",
    "{{.Config.Cmd}} {{json .Config.Cmd}} {{index .Config.Cmd 2}}",
    "{{.Config.OnBuild}} {{json .Config.OnBuild}} {{len .Config.OnBuild}}",
    "{{.Config.Labels}} {{json .Config.Labels}}",
    "{{.Config.Labels.k}} {{index .Config.Labels \"a.b\"}} [{{index .Config.Labels \"zz\"}}] {{.Config.Labels.zz}}",
    "{{range $p, $c := .Config.ExposedPorts}}{{$p}} {{json $c}};{{end}}",
    "{{range $i, $e := .Config.Env}}{{if $i}}, {{end}}{{upper $e}}{{end}}",
    "{{with .Config.OnBuild}}y{{else}}n{{end}}{{if .Config.Labels}}y{{end}}",
    "{{range .Config.Env}}{{with split . \"=\"}}{{index . 0}} is {{index . 1}}, {{end}}{{end}}",
    "{{printf \"%s %v %q %d %x %-30s|%5.1s|\" .Os .Config.Env .Author (len .Config.Cmd) .Os .Author .Os}}",
    "{{printf \"%d %s\" .Os (len .Os)}} {{printf \"%s\"}} {{printf \"x\" 1}}",
    "{{title .Author}} {{lower .Author}} {{pad .Os 2 1}}| {{truncate .Os 3}}",
    "{{eq .Os \"linux\" \"x\"}} {{ne .Os \"x\"}} {{and .Os .Author}} {{or \"\" .Os}} {{not .Os}}",
    "{{$x := .Os}}{{with .Config}}{{$x}}{{.User}}{{$.Os}}{{$x = \"y\"}}{{end}}{{$x}}",
    "a {{- /* nothing */ -}} b {{- .Os }} c",
    "{{slice .Os 1 3}} {{json .Config.Volumes}} {{.Config.WorkingDir | println}}",
    "{{.Config.StopSignal}} {{.Config.Entrypoint}} {{json .Config.Volumes}}",
    "{{.ID | len}}",
    "{{.Id | len}}",
    "{{.Nope}}",
];

#[test]
fn docker_and_we() {
    if lacks(&["root", "dockerd", "unshare", "jq"]) {
        return;
    }
    let t = Sandbox::new();
    t.store(&image(), "app:v1");
    let dockerd = Dockerd::start(&t);
    t.sh(&format!(
        "{COMMON} img-save app:v1 | $DOCKER load -q
         $DOCKER inspect app:v1 | common >theirs; img-inspect app:v1 | common | diff theirs -
         format='{{{{.CreatedBy}}}}|{{{{.CreatedAt}}}}|{{{{.Comment}}}}'
         for cut in --no-trunc --no-trunc=false; do
             $DOCKER history $cut --format \"$format\" app:v1 >theirs
             img-history $([ $cut != --no-trunc ] || echo $cut) --format \"$format\" app:v1 | diff theirs -
         done"
    ))
    .prints("Loaded image: app:v1\n");
    for template in TEMPLATES {
        let theirs = t.sh(&format!("$DOCKER inspect -f '{template}' app:v1"));
        let ours = t.sh(&format!("img-inspect -f '{template}' app:v1"));
        assert_eq!(theirs.code, ours.code, "{template}");
        if theirs.code == 0 {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            assert_eq!(text(&theirs.stdout), text(&ours.stdout), "{template}");
        }
    }
    drop(dockerd);
}
