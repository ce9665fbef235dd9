//! img-ls: the images that are here.

use std::path::Path;

use sandbox::Sandbox;
use sandbox::image::{Image, busybox, busybox_layer};
use serde_json::json;

#[test]
fn a_list_is_dockers_table() {
    let t = Sandbox::with_image("app:v1");
    t.store(busybox(), "127.0.0.1:5000/team/app");
    let id = &busybox().digest["sha256:".len()..][..12];
    let run = t.sh("img-ls").exits(0);
    let text = String::from_utf8(run.stdout).unwrap();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|row| row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect();
    assert_eq!(rows[0], ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]);
    let mut names: Vec<_> = rows[1..].iter().map(|row| (row[0], row[1], row[2])).collect();
    names.sort();
    assert_eq!(names, [("127.0.0.1:5000/team/app", "latest", id), ("app", "v1", id)]);
    assert!(rows[1][3].ends_with("years ago"), "{text}"); // it was created in 1970
}

#[test]
fn an_empty_store_is_a_heading() {
    let t = Sandbox::new();
    t.sh("img-ls").prints("REPOSITORY   TAG       IMAGE ID   CREATED   SIZE\n");
    t.sh("img-ls -q").prints("");
}

#[test]
fn quiet_lines_are_operands() {
    let t = Sandbox::with_image("app:v1");
    t.sh("img-ls -q").prints(&format!("app:v1@{}\n", busybox().digest));
    t.sh("img-ls -q | img-tag - other").prints(&format!("other:latest@{}\n", busybox().digest));
    t.sh("img-rm other").exits(0);
    t.sh("img-ls -q $(img-ls -q); img-ls -q --filter reference=$(img-ls -q)")
        .prints(&format!("app:v1@{}\n", busybox().digest).repeat(2));
    t.sh("img-ls -q app:v1@sha256:$(printf %064d 0)").prints("");
}

#[test]
fn an_image_that_lost_its_name_is_listed_by_id() {
    let t = Sandbox::with_image("app:v1");
    let other = Image::new(&[&busybox_layer()], &json!({ "Cmd": ["true"] }));
    t.store(&other, "app:v2");
    t.sh("img-tag app:v2 app:v1 >$TMPDIR/x; rm $TMPDIR/x").is_silent();
    t.sh("img-ls -aq | sort").prints(&{
        let mut lines = [
            format!("app:v1@{}\n", other.digest),
            format!("app:v2@{}\n", other.digest),
            format!("{}\n", busybox().digest),
        ];
        lines.sort();
        lines.concat()
    });
    t.sh("img-ls -q --filter dangling=true").prints(&format!("{}\n", busybox().digest));
    t.sh("img-ls -q --filter reference='app:*2'").prints(&format!("app:v2@{}\n", other.digest));
}

#[test]
fn a_format_is_dockers() {
    let t = Sandbox::with_image("app:v1");
    let digest = &busybox().digest;
    t.sh("img-ls --format '{{.Repository}}:{{.Tag}} {{.Digest}}'")
        .prints(&format!("app:v1 {digest}\n"));
    t.sh("img-ls --no-trunc --format json | jq -r '.Repository, .ID'")
        .prints(&format!("app\n{digest}\n"));
    t.sh("img-ls --no-trunc --format 'table {{.Tag}}\\t{{.Repository}}'")
        .prints("TAG       REPOSITORY\nv1        app\n");
    t.sh("mkdir $HOME/.docker; echo '{\"imagesFormat\": \"{{.Tag}}\"}' >$HOME/.docker/config.json")
        .is_silent();
    t.sh("img-ls").prints("v1\n");
    t.sh("img-ls --format '{{.Nope'").says("img-ls: ").exits(1);
}

#[test]
fn times_are_local() {
    let t = Sandbox::with_image("app:v1");
    let created = "img-ls --format '{{.CreatedAt}}'";
    let history = Image::new(&[&busybox_layer()], &json!({ "Cmd": ["old"] }));
    let mut config = history.config();
    config["history"] = json!([{ "created": "1970-01-01T00:00:00Z", "created_by": "x" }]);
    t.store(&history.with_whole_config(&config), "other:v1");
    t.sh(&format!("TZ=XYZ-3:30 {created} app")).prints("1970-01-01 03:30:00 +0330 XYZ\n");
    t.sh("TZ=XYZ-3:30 img-history --format '{{.CreatedAt}}' other:v1")
        .prints("1970-01-01T03:30:00+03:30\n");
    t.sh(&format!("TZ=No/Where {created} app; TZ=UTC {created} app"))
        .prints(&"1970-01-01 00:00:00 +0000 UTC\n".repeat(2));
    if !Path::new("/usr/share/zoneinfo/Asia/Tokyo").exists() {
        return; // then all but POSIX's zones are UTC
    }
    t.sh(&format!("TZ=Asia/Tokyo {created} app")).prints("1970-01-01 09:00:00 +0900 JST\n");
    t.sh("TZ=Asia/Tokyo img-history --format '{{.CreatedAt}}' other:v1")
        .prints("1970-01-01T09:00:00+09:00\n");
    let until = "img-ls -q --filter until=1970-01-01T05:00:00 app";
    t.sh(&format!("TZ=Asia/Tokyo {until}")).prints("");
    t.sh(&format!("TZ=UTC {until}")).prints(&format!("app:v1@{}\n", busybox().digest));
}

#[test]
fn the_list_may_be_cut_off() {
    let t = Sandbox::with_image("app:v1");
    t.sh("for i in $(seq 200); do printf 'app:v1 app:%s\\n' $i; done | xargs -n2 img-tag | wc -l")
        .prints("200\n");
    t.sh("img-ls | head -1").prints("REPOSITORY   TAG       IMAGE ID       CREATED        SIZE\n");
    t.sh("i=0; while [ $i -lt 50 ]; do img-ls | true; i=$((i + 1)); done").is_silent();
}
