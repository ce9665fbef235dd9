//! img-history: the steps that made an image.

use sandbox::Sandbox;
use sandbox::image::{Image, PACK, architecture, busybox, busybox_layer};
use serde_json::{Value, json};

/// Returns an image of two layers with this history.
fn image(history: &Value) -> Image {
    let layer = format!("mkdir etc; echo x >etc/x; {PACK}");
    let image = Image::new(&[&busybox_layer(), &layer], &json!({ "Cmd": ["sh"] }));
    let mut config = image.config();
    config["history"] = history.clone();
    image.with_whole_config(&config)
}

/// What Docker wrote into a config, and BuildKit.
fn usual() -> Image {
    image(&json!([
        { "created": "2004-05-01T10:00:00Z", "created_by": "/bin/sh -c #(nop) ADD file:aaa in / " },
        {
            "created": "2004-05-02T10:00:00.123456789Z", "comment": "buildkit.dockerfile.v0", "empty_layer": true,
            "created_by": "RUN /bin/sh -c echo this is a very long line of history which will be cut # buildkit",
        },
        { "created": "2004-05-03T10:00:00+02:00", "created_by": "COPY x /etc # buildkit" },
    ]))
}

/// Returns the sizes of the image's layers.
fn sizes(image: &Image) -> [u64; 2] {
    [0, 1].map(|at| image.manifest()["layers"][at]["size"].as_u64().unwrap())
}

#[test]
fn a_history_is_dockers_table() {
    let t = Sandbox::new();
    let image = usual();
    t.store(&image, "app:v1");
    let id = &image.digest["sha256:".len()..][..12];
    let [below, above] = sizes(&image);
    // The columns are Docker's of 28.5, but for the sizes, which are those of the packed layers.
    t.sh("img-history -H=false app:v1").prints(&format!(
        "IMAGE          CREATED AT             CREATED BY                                      SIZE      COMMENT\n\
         {id}   2004-05-03T08:00:00Z   COPY x /etc # buildkit                          {above:<10}\n\
         <missing>      2004-05-02T10:00:00Z   RUN /bin/sh -c echo this is a very long line…   0         buildkit.dockerfile.v0\n\
         <missing>      2004-05-01T10:00:00Z   /bin/sh -c #(nop) ADD file:aaa in /             {below:<10}\n"
    ));
    let text = t.sh("img-history app:v1").text();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|row| row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect();
    assert_eq!(rows[0], ["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"]);
    assert_eq!((rows[1][0], rows[1][2]), (id, "COPY x /etc # buildkit"), "{text}");
    assert!(rows[1][1].ends_with("years ago") && rows[1][3].ends_with('B'), "{text}");
    assert_eq!(rows[2][3..], ["0B", "buildkit.dockerfile.v0"], "{text}");
}

#[test]
fn a_history_can_be_whole_quiet_and_formatted() {
    let t = Sandbox::new();
    let image = usual();
    t.store(&image, "app:v1");
    let digest = &image.digest;
    t.sh("img-history -q app:v1").prints(&format!("{}\n<missing>\n<missing>\n", &digest[7..19]));
    t.sh("img-history -q --no-trunc app:v1").prints(&format!("{digest}\n<missing>\n<missing>\n"));
    t.sh("img-history --no-trunc --format '{{.CreatedBy}}|{{.Comment}}' app:v1").prints(
        "COPY x /etc # buildkit|\n\
         RUN /bin/sh -c echo this is a very long line of history which will be cut # buildkit|buildkit.dockerfile.v0\n\
         /bin/sh -c #(nop) ADD file:aaa in / |\n",
    );
    t.sh("img-history --human=false --format json app:v1 | jq -r '.ID, .Size' | tail -n 1")
        .prints(&format!("{}\n", sizes(&image)[0]));
    t.sh(r"img-history --format 'table {{.ID}}\t{{.CreatedAt}}' app:v1").prints(&format!(
        "IMAGE          CREATED AT\n{}   2004-05-03T08:00:00Z\n<missing>      2004-05-02T10:00:00Z\n\
         <missing>      2004-05-01T10:00:00Z\n",
        &digest[7..19]
    ));
    t.sh("img-history --format '{{.Nope}}' app:v1")
        .says("img-history: --format: no field .Nope: there are .Comment .CreatedAt")
        .exits(1);
}

#[test]
fn the_sizes_of_the_steps_are_the_size_of_the_image_but_for_its_documents() {
    let t = Sandbox::new();
    let image = usual();
    t.store(&image, "app:v1");
    t.sh("du -b $(img-inspect --manifest app:v1 | jq -r '.layers[].digest' |
            sed \"s|sha256:|$TARE_ROOT/images/blobs/sha256/|\") | awk '{ sum += $1 } END { print sum }' >du
          img-history -H=false --format '{{.Size}}' app:v1 | awk '{ sum += $1 } END { print sum }' | cmp - du")
        .is_silent();
}

#[test]
fn times_that_nobody_set_are_not_dates() {
    let t = Sandbox::new();
    t.store(
        &image(&json!([
            { "created": "1970-01-01T00:00:00Z" },
            { "created": "0001-01-01T00:00:00Z", "empty_layer": true },
            { "created_by": "no time" },
            { "created": "2999-01-01T00:00:00Z", "empty_layer": true },
        ])),
        "app",
    );
    t.sh("img-history --format '{{.CreatedSince}}' app")
        .prints("Less than a second ago\nN/A\nN/A\nN/A\n");
}

#[test]
fn what_a_history_says_of_layers_must_be_true() {
    let t = Sandbox::new();
    // Kaniko and img-import of others leave it out.
    let silent = image(&Value::Null);
    t.store(&silent, "silent");
    let [below, above] = sizes(&silent);
    t.sh("img-history -H=false --format '{{.CreatedAt}} {{.CreatedBy}}{{.Size}}' silent")
        .prints(&format!("N/A {above}\nN/A {below}\n"));
    t.store(&image(&json!([{ "created_by": "one" }])), "fewer");
    t.sh("img-history -H=false --format '{{.CreatedBy}} {{.Size}}' fewer")
        .prints(&format!(" {above}\none {below}\n"));
    t.store(&image(&json!([{}, {}, {}])), "more");
    t.sh("img-history more").fails(
        "img-history: more:latest: corrupt: its history speaks of more layers than the 2 that there are\n",
    );
}

#[test]
fn a_hostile_history_does_nothing_to_a_terminal() {
    let t = Sandbox::new();
    let step = "a\tb\nc\u{1b}]0;gone\u{7}\u{202e}";
    t.store(&image(&json!([{ "created_by": step, "comment": step }, {}])), "app");
    let row = r"a b\nc\u{1b}]0;gone\u{7}\u{202e}";
    t.sh(r"img-history --format 'table {{.CreatedBy}}\t{{.Comment}}' app | tail -n 1")
        .prints(&format!("{row}   {}\n", row));
    // A program gets what is there.
    t.sh("img-history --format json app | jq -j 'select(.Comment != \"\") | .Comment'")
        .prints(step);
}

#[test]
fn wide_characters_are_cut_and_aligned_by_what_they_take() {
    let t = Sandbox::new();
    let wide = "漢字".repeat(20);
    t.store(&image(&json!([{ "created_by": wide }, { "created_by": "narrow" }])), "app");
    t.sh(r"img-history --format 'table {{.CreatedBy}}\t{{.Comment}}|' app").prints(&format!(
        "CREATED BY                                      COMMENT|\n\
         narrow                                          |\n{}…   |\n",
        "漢字".repeat(11)
    ));
}

#[test]
fn a_platform_has_its_own_history() {
    let t = Sandbox::new();
    let other = image(&json!([{ "created_by": "other" }, {}]));
    let index = Image::index(&[
        (busybox(), json!({ "os": "linux", "architecture": architecture() })),
        (&other, json!({ "os": "linux", "architecture": "s390x" })),
    ]);
    t.store(&index, "app");
    t.sh("img-history --no-trunc --format '{{.ID}} {{.CreatedBy}}' app")
        .prints(&format!("{} a test\n", index.digest));
    t.sh("img-history --platform linux/s390x --no-trunc --format '{{.ID}}' app")
        .prints(&format!("{}\n<missing>\n", other.digest));
    t.sh("img-history --platform linux/riscv64 app")
        .says("img-history: app:latest: no image for linux/riscv64\nhint: --platform takes")
        .exits(1);
}

#[test]
fn a_history_is_of_any_operand() {
    let t = Sandbox::with_image("app:v1");
    let id = &busybox().digest;
    let wanted = format!("{id} a test\n");
    t.sh("cp -r $TARE_ROOT/images layout; tar -C layout -c . | gzip >a.tgz").is_silent();
    let format = "--no-trunc --format '{{.ID}} {{.CreatedBy}}'";
    for operand in [&id[7..20], "./layout", "./layout:app:v1", "oci-archive:a.tgz", "./a.tgz"] {
        t.sh(&format!("img-history {format} {operand}")).prints(&wanted);
    }
    t.sh(&format!("img-tag app:v1 b | img-history {format} -")).prints(&wanted);
    t.sh(&format!("img-history {format} - <a.tgz")).prints(&wanted);
    t.sh("img-history nope").fails(
        "img-history: nope:latest: no such image\nhint: img-pull nope:latest, or img-ls for what is here\n",
    );
}
