//! img-inspect: what is known of images.

use sandbox::Sandbox;
use sandbox::image::{Image, PACK, architecture, busybox, busybox_layer};
use serde_json::{Value, json};

/// Returns an image that says something of everything.
fn talkative() -> Image {
    let layer = format!("mkdir etc; echo x >etc/x; {PACK}");
    let image = Image::new(&[&busybox_layer(), &layer], &json!({}));
    let mut config = image.config();
    config["created"] = json!("2005-01-02T03:04:05.123456789Z");
    config["author"] = json!("me <a&b>");
    config["variant"] = json!("v2");
    config["docker_version"] = json!("9.9");
    config["os.version"] = json!("1.2");
    config["config"] = json!({
        "Cmd": ["sh"], "Env": ["PATH=/bin", "A=b"], "ExposedPorts": { "80/tcp": {} }, "Volumes": { "/data": {} },
        "Labels": { "a.b": "c", "k": "v" }, "StopSignal": "SIGTERM", "WorkingDir": "/tmp",
        "Healthcheck": { "Test": ["CMD", "x"], "Interval": 1000000000 },
    });
    config["history"] =
        json!([{ "created_by": "one" }, { "created_by": "two", "comment": "the last" }]);
    image.with_whole_config(&config)
}

#[test]
fn an_image_is_dockers_object_in_an_array() {
    let t = Sandbox::new();
    let image = talkative();
    t.store(&image, "app:v1");
    let digest = &image.digest;
    let config = image.config();
    let diff_ids = &config["rootfs"]["diff_ids"];
    let size: u64 = image.blobs().iter().map(|(_, path)| path.metadata().unwrap().len()).sum();
    // The blobs of the image before it got its config are in its layout as well.
    let base =
        Image::new(&[&busybox_layer(), &format!("mkdir etc; echo x >etc/x; {PACK}")], &json!({}));
    let unused = [&base.digest, base.manifest()["config"]["digest"].as_str().unwrap()]
        .map(|digest| base.blob(digest).metadata().unwrap().len());
    let size = size - unused.iter().sum::<u64>();
    let desc_size = image.blob(digest).metadata().unwrap().len();
    // As Docker 28.5 prints it, but for GraphDriver, and for LastTagTime, which here nobody knows.
    t.sh("img-inspect app:v1").prints(&format!(
        r#"[
    {{
        "Id": "{digest}",
        "RepoTags": [
            "app:v1"
        ],
        "RepoDigests": [
            "app@{digest}"
        ],
        "Parent": "",
        "Comment": "the last",
        "Created": "2005-01-02T03:04:05.123456789Z",
        "DockerVersion": "9.9",
        "Author": "me <a&b>",
        "Architecture": "{arch}",
        "Variant": "v2",
        "Os": "linux",
        "OsVersion": "1.2",
        "Size": {size},
        "RootFS": {{
            "Type": "layers",
            "Layers": [
                {},
                {}
            ]
        }},
        "Metadata": {{
            "LastTagTime": "0001-01-01T00:00:00Z"
        }},
        "Descriptor": {{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": "{digest}",
            "size": {desc_size},
            "annotations": {{
                "org.opencontainers.image.ref.name": "docker.io/library/app:v1"
            }}
        }},
        "Config": {{
            "Cmd": [
                "sh"
            ],
            "Entrypoint": null,
            "Env": [
                "PATH=/bin",
                "A=b"
            ],
            "ExposedPorts": {{
                "80/tcp": {{}}
            }},
            "Healthcheck": {{
                "Interval": 1000000000,
                "Test": [
                    "CMD",
                    "x"
                ]
            }},
            "Labels": {{
                "a.b": "c",
                "k": "v"
            }},
            "OnBuild": null,
            "StopSignal": "SIGTERM",
            "User": "",
            "Volumes": {{
                "/data": {{}}
            }},
            "WorkingDir": "/tmp"
        }}
    }}
]
"#,
        diff_ids[0],
        diff_ids[1],
        arch = architecture(),
    ));
    t.sh("img-ls --format '{{.Size}}' >ls; img-inspect -f '{{.Size}}' app:v1 | numfmt --to=si | cut -c1 >si
          cut -c1 ls | cmp - si")
        .is_silent();
}

#[test]
fn an_unknown_image_is_an_error_and_the_others_are_shown() {
    let t = Sandbox::with_image("app:v1");
    let error = "img-inspect: nope:latest: no such image\n\
                 hint: img-pull nope:latest, or img-ls for what is here\n";
    t.sh("img-inspect nope").outputs("[]\n", error, 1);
    t.sh("img-inspect -f json nope").outputs("[]\n", error, 1);
    t.sh("img-inspect -f '{{.Id}}' nope").fails(error);
    for option in ["--raw", "--config", "--manifest"] {
        t.sh(&format!("img-inspect {option} nope")).fails(error);
    }
    t.sh("img-inspect nope app:v1 nope >out").exits(1);
    t.sh("jq -c 'map(.RepoTags)' out").prints("[[\"app:v1\"]]\n");
    t.sh("img-inspect app:v1 app:v1 | jq length; img-inspect -f json app:v1 app:v1 | jq length")
        .prints("2\n2\n");
    t.sh("img-inspect -f json app:v1 | wc -l").prints("1\n");
    t.sh("img-inspect").exits(2);
    t.sh("img-inspect --raw --config app:v1").says("cannot be used with").exits(2);
}

#[test]
fn the_documents_are_shown_to_the_byte() {
    let t = Sandbox::new();
    let image = talkative();
    t.store(&image, "app");
    let index = Image::index(&[(&image, json!({ "os": "linux", "architecture": architecture() }))]);
    t.store(&index, "many");
    let config = image.manifest()["config"]["digest"].as_str().unwrap().to_owned();
    for (options, digest) in [
        ("--raw app", &image.digest),
        ("--manifest app", &image.digest),
        ("--config app", &config),
        ("--raw many", &index.digest),
        ("--manifest many", &image.digest),
        ("--config many", &config),
    ] {
        t.sh(&format!("img-inspect {options} | sha256sum | cut -c1-64"))
            .prints(&format!("{}\n", &digest[7..]));
    }
    t.sh("img-inspect --config -f '{{.config.Env}} {{index .rootfs \"type\"}}' app")
        .prints("[PATH=/bin A=b] layers\n");
    t.sh("img-inspect --raw -f json many | jq -c 'map(.manifests | length)'").prints("[1]\n");
}

#[test]
fn a_platform_is_chosen_and_one_that_is_not_there_is_an_error() {
    let t = Sandbox::new();
    let mut config = busybox().config();
    config["architecture"] = json!("s390x");
    let other = busybox().with_whole_config(&config);
    let index = Image::index(&[
        (busybox(), json!({ "os": "linux", "architecture": architecture() })),
        (&other, json!({ "os": "linux", "architecture": "s390x" })),
    ]);
    t.store(&index, "app");
    let format = "-f '{{.Id}} {{.Architecture}} {{.RepoDigests}}'";
    let pinned = format!("[app@{}]", index.digest);
    t.sh(&format!("img-inspect {format} app")).prints(&format!(
        "{} {} {pinned}\n",
        index.digest,
        architecture()
    ));
    t.sh(&format!("img-inspect {format} --platform linux/s390x app"))
        .prints(&format!("{} s390x {pinned}\n", other.digest));
    t.sh("img-inspect --manifest --platform linux/s390x app | sha256sum | cut -c1-64")
        .prints(&format!("{}\n", &other.digest[7..]));
    t.sh("img-inspect --platform linux/riscv64 app")
        .says("img-inspect: app:latest: no image for linux/riscv64\nhint: --platform takes")
        .exits(1);
    // An image that was not chosen from an index is for what it is for.
    t.store(&other, "other");
    t.sh("img-inspect -f '{{.Architecture}}' other").prints("s390x\n");
    for options in ["", "--raw", "--manifest", "--config"] {
        t.sh(&format!("img-inspect {options} --platform linux/amd64 other"))
            .says("img-inspect: other:latest: no image for linux/amd64\n")
            .exits(1);
    }
}

#[test]
fn a_template_asks_what_it_would_ask_docker() {
    let t = Sandbox::new();
    t.store(&talkative(), "app:v1");
    t.store(busybox(), "plain");
    let id = talkative().digest;
    // What Docker 28.5 answers.
    for (template, full, plain) in [
        ("{{.ID}}", &*id, &*busybox().digest),
        ("{{.Descriptor.Digest}}", &id, &busybox().digest),
        ("{{.Config.Entrypoint}}", "[]", "[]"),
        ("{{.Config.User}}", "", ""),
        ("{{.Config.Labels.k}}", "v", "<no value>"),
        ("{{.Config.Labels.zz}}", "<no value>", "<no value>"),
        ("{{index .Config.Labels \"a.b\"}}", "c", ""),
        ("{{json .Config.Entrypoint}}", "null", "null"),
        ("{{json .Config.Labels}}", "{\"a.b\":\"c\",\"k\":\"v\"}", "null"),
        ("{{.Variant}}", "v2", ""),
        ("{{.Created}}", "2005-01-02T03:04:05.123456789Z", "1970-01-01T00:00:00Z"),
        ("{{len .Config.Env}}", "2", "1"),
        ("{{range .Config.Entrypoint}}x{{end}}", "", ""),
        ("{{.Os}}/{{.Architecture}}", "linux/ARCH", "linux/ARCH"),
        ("{{json .Config.ExposedPorts}}", "{\"80/tcp\":{}}", "null"),
        ("{{range $p, $c := .Config.ExposedPorts}}{{$p}} {{end}}", "80/tcp ", ""),
        ("{{with .Config.Healthcheck}}y{{else}}n{{end}}", "y", "n"),
        ("{{.Parent}}", "", ""),
        ("{{gt .Size 3}}", "true", "true"),
        (r"a\tb", r"a\tb", r"a\tb"),
        (r#"{{"a\tb"}}"#, "a\tb", "a\tb"),
        ("table {{.Os}}", "table linux", "table linux"),
    ] {
        let wanted = format!("{full}\n{plain}\n").replace("ARCH", architecture());
        t.sh(&format!("img-inspect -f '{template}' app:v1 plain")).prints(&wanted);
    }
    t.sh("img-inspect -f '{{.Nope}}' plain")
        .says("img-inspect: plain:latest: --format: no field .Nope: there")
        .exits(1);
    t.sh("img-inspect -f '{{' plain").fails("img-inspect: --format: {{ without }}\n");
}

#[test]
fn all_names_of_an_image_are_shown() {
    let t = Sandbox::with_image("app:v1");
    t.store(busybox(), "127.0.0.1:5000/team/app:2");
    t.store(busybox(), "app:v2");
    let digest = &busybox().digest;
    t.sh("img-inspect -f '{{.RepoTags}} {{.RepoDigests}}' app:v2").prints(&format!(
        "[127.0.0.1:5000/team/app:2 app:v1 app:v2] [127.0.0.1:5000/team/app@{digest} app@{digest}]\n"
    ));
    t.sh("img-inspect -f '{{.RepoTags}}' app:v1@$(img-inspect -f '{{.Id}}' app:v1)")
        .prints("[127.0.0.1:5000/team/app:2 app:v1 app:v2]\n");
    // A name that is not of Docker's making stays as it is.
    t.sh("cp -r $TARE_ROOT/images layout; sed -i s,docker.io/library/app:v2,plain, layout/index.json")
        .is_silent();
    t.sh("img-inspect -f '{{.RepoTags}}' ./layout:plain")
        .prints("[127.0.0.1:5000/team/app:2 app:v1 plain]\n");
}

#[test]
fn any_operand_is_inspected() {
    let t = Sandbox::with_image("app:v1");
    let id = &busybox().digest;
    let wanted = format!("{id} [app:v1]\n");
    t.sh("cp -r $TARE_ROOT/images layout; tar -C layout -c . | gzip >a.tgz").is_silent();
    for operand in [&id[7..20], "./layout", "./layout:app:v1", "oci-archive:a.tgz", "./a.tgz"] {
        t.sh(&format!("img-inspect -f '{{{{.Id}}}} {{{{.RepoTags}}}}' {operand}")).prints(&wanted);
    }
    t.sh("img-tag app:v1 app:v1 | img-inspect -f '{{.Id}} {{.RepoTags}}' -").prints(&wanted);
    t.sh("img-inspect -f '{{.Id}} {{.RepoTags}}' - <a.tgz").prints(&wanted);
    t.sh("ls -A $TARE_ROOT/cache").prints("used\n");
}

#[test]
fn many_operands_come_on_stdin() {
    let t = Sandbox::with_image("app:v1");
    t.sh("printf 'app:v1\\napp:v1' | img-inspect --stdin -f '{{.Os}}' app:v1")
        .prints("linux\nlinux\nlinux\n");
    t.sh("printf 'app:v1\\0' | img-inspect --stdin -0 -f '{{.Os}}'").prints("linux\n");
    t.sh("img-inspect --stdin </dev/null").prints("[]\n");
    t.sh("printf 'App\\napp:v1' | img-inspect --stdin -f '{{.Os}}'").says("lower case").exits(1);
}

#[test]
fn what_hostile_documents_claim_breaks_nothing() {
    let t = Sandbox::new();
    // Layers of more bytes than there are numbers, which nobody has to have.
    let mut manifest = busybox().manifest();
    let layer = manifest["layers"][0].clone();
    let huge = json!({ "mediaType": layer["mediaType"], "digest": format!("sha256:{:064}", 1), "size": u64::MAX });
    manifest["layers"] = Value::Array(vec![layer, huge]);
    let bytes = manifest.to_string();
    let hex = sandbox::image::sha256(bytes.as_bytes());
    t.sh("cp -r $TARE_ROOT/images layout 2>/dev/null || true").is_silent();
    busybox().copy_to(&t.path("work/layout"), "old");
    std::fs::write(t.path("work/layout/blobs/sha256").join(&hex), &bytes).unwrap();
    t.sh(&format!("img-inspect -f '{{{{.Size}}}}' ./layout@sha256:{hex}"))
        .prints(&format!("{}\n", u64::MAX));
    // A blob that is not what its name says.
    t.sh(&format!("echo ' ' >>layout/blobs/sha256/{hex}; img-inspect --raw ./layout@sha256:{hex}"))
        .says("corrupt: it hashes to")
        .exits(1);
    // An artifact has no config of an image, but a manifest.
    let mut artifact = busybox().manifest();
    artifact["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json");
    artifact["config"]["digest"] = json!(format!("sha256:{}", sandbox::image::sha256(b"{}")));
    artifact["config"]["size"] = json!(2);
    let bytes = artifact.to_string();
    let hex = sandbox::image::sha256(bytes.as_bytes());
    std::fs::write(t.path("work/layout/blobs/sha256").join(&hex), &bytes).unwrap();
    std::fs::write(t.path("work/layout/blobs/sha256").join(sandbox::image::sha256(b"{}")), "{}")
        .unwrap();
    for option in ["--raw", "--manifest"] {
        t.sh(&format!("img-inspect {option} ./layout@sha256:{hex}")).prints(&bytes);
    }
    t.sh(&format!("img-inspect ./layout@sha256:{hex}")).says("not an image config").exits(1);
}
