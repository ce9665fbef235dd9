//! scripts/docker: Docker's command line, answered in Docker's words.

use sandbox::image::{busybox, busybox_layer};
use sandbox::run::Run;
use sandbox::{Sandbox, workspace};

use crate::img_push::HTPASSWD;

/// Runs a script that says `docker`.
#[must_use]
fn docker(t: &Sandbox, script: &str) -> Run {
    let shim = workspace().join("scripts/docker");
    t.sh(&format!("docker() {{ {} \"$@\"; }}\n{script}", shim.display()))
}

/// Returns the ID of the usual image, short.
fn id() -> String {
    busybox().digest["sha256:".len()..][..12].to_owned()
}

#[test]
fn pull_says_what_is_new() {
    let t = Sandbox::new().with_registry();
    t.registry().add(busybox(), "team/app", "latest");
    let name = format!("{}/team/app", t.registry().address());
    let digest = &busybox().digest;
    let pulled = |status: &str| {
        format!(
            "Using default tag: latest\nlatest: Pulling from team/app\nDigest: {digest}\nStatus: {status} for {name}:latest\n\
             {name}:latest\n"
        )
    };
    docker(&t, "docker pull $REGISTRY/team/app 2>progress")
        .prints(&pulled("Downloaded newer image"));
    docker(&t, "docker image pull $REGISTRY/team/app 2>progress")
        .prints(&pulled("Image is up to date"));
    docker(&t, "docker pull -q $REGISTRY/team/app:latest").prints(&format!("{name}:latest\n"));
    docker(&t, &format!("docker pull --quiet --platform linux $REGISTRY/team/app@{digest}"))
        .prints(&format!("{name}@{digest}\n"));
    docker(&t, "docker pull -q $REGISTRY/team/app:none").says("manifest not found in").exits(1);
}

#[test]
fn pull_of_all_tags_says_each() {
    let t = Sandbox::new().with_registry();
    t.registry().add(busybox(), "team/app", "1");
    t.registry().add(busybox(), "team/app", "latest");
    let name = format!("{}/team/app", t.registry().address());
    let digest = &busybox().digest;
    let pulled = |status: &str| {
        format!(
            "{name}\n1: Pulling from team/app\nDigest: {digest}\nDigest: {digest}\n\
             Status: {status} for {name}\nlatest: Pulling from team/app\n"
        )
    };
    // The order of the tags is the registry's.
    docker(&t, "docker pull -a $REGISTRY/team/app 2>progress | LC_ALL=C sort")
        .prints(&pulled("Downloaded newer image"));
    docker(&t, "docker image pull --all-tags $REGISTRY/team/app 2>progress | LC_ALL=C sort")
        .prints(&pulled("Image is up to date"));
    docker(&t, "docker pull -aq $REGISTRY/team/app").prints(&format!("{name}\n"));
    docker(&t, "docker pull -a $REGISTRY/team/app:1")
        .fails("tag can't be used with --all-tags/-a\n");
}

#[test]
fn pull_of_an_index_names_the_index() {
    use sandbox::image::{Image, architecture};
    let t = Sandbox::new().with_registry();
    let platform = serde_json::json!({ "os": "linux", "architecture": architecture() });
    let index = Image::index(&[(busybox(), platform)]);
    t.registry().add(&index, "app", "1");
    docker(&t, "docker pull $REGISTRY/app:1 2>progress | sed -n 2p")
        .prints(&format!("Digest: {}\n", index.digest));
}

#[test]
fn push_says_what_is_there_now() {
    let t = Sandbox::with_image("app:v1").with_registry();
    let name = format!("{}/team/app", t.registry().address());
    let digest = &busybox().digest;
    let size = busybox().blob(digest).metadata().unwrap().len();
    docker(&t, "docker tag app:v1 $REGISTRY/team/app").is_silent();
    docker(&t, "docker push $REGISTRY/team/app 2>progress").prints(&format!(
        "Using default tag: latest\nThe push refers to repository [{name}]\nlatest: digest: {digest} size: {size}\n"
    ));
    docker(&t, "docker image push -q $REGISTRY/team/app:latest")
        .prints(&format!("{name}:latest\n"));
    t.sh("img-pull -q --root ./other $REGISTRY/team/app")
        .prints(&format!("{name}:latest@{digest}\n"));
    docker(&t, "docker push -q $REGISTRY/team/nope").says("no such image").exits(1);
    docker(&t, "docker tag app:v1 $REGISTRY/team/app:1; docker push -a $REGISTRY/team/app 2>progress >all; grep -v digest all; grep digest all | sort").prints(&format!(
        "The push refers to repository [{name}]\n1: digest: {digest} size: {size}\nlatest: digest: {digest} size: {size}\n"
    ));
    docker(&t, "docker push --all-tags --quiet $REGISTRY/team/app").prints(&format!("{name}\n"));
    docker(&t, "docker push -a $REGISTRY/team/app:1")
        .fails("tag can't be used with --all-tags/-a\n");
}

#[test]
fn login_and_logout_say_what_docker_says() {
    let t = Sandbox::with_image("app:v1");
    let htpasswd = t.write("htpasswd", HTPASSWD);
    let t = t.with_registry_of(&format!(
        "auth: {{htpasswd: {{realm: tests, path: {}}}}}",
        htpasswd.display()
    ));
    let address = t.registry().address().to_owned();
    docker(&t, "docker tag app:v1 $REGISTRY/app; docker push -q $REGISTRY/app")
        .says("authentication required")
        .exits(1);
    docker(&t, "echo wrong | docker login -u user --password-stdin $REGISTRY")
        .says("refused")
        .exits(1);
    docker(&t, "echo secret | docker login --username=user --password-stdin $REGISTRY")
        .prints("Login Succeeded\n");
    docker(&t, "docker login -uuser -psecret $REGISTRY")
        .says("--password-stdin hides it")
        .ends_with("Login Succeeded\n");
    docker(&t, "docker push -q $REGISTRY/app").prints(&format!("{address}/app:latest\n"));
    let removing = format!("Removing login credentials for {address}\n");
    docker(&t, "docker logout $REGISTRY").prints(&removing);
    docker(&t, "docker push -q $REGISTRY/app").says("authentication required").exits(1);
    // As for Docker, what was never stored is forgotten.
    docker(&t, "docker logout $REGISTRY; docker logout")
        .prints(&format!("{removing}Removing login credentials for https://index.docker.io/v1/\n"));
}

#[test]
fn an_image_is_saved_and_loaded() {
    let t = Sandbox::with_image("app:v1");
    t.store(busybox(), "other");
    docker(&t, "docker save -o a.tar app:v1 other; docker image save app:v1 other | cmp - a.tar")
        .is_silent();
    t.set("TARE_ROOT", t.path("work/second"));
    docker(&t, "docker load -i a.tar").prints("Loaded image: app:v1\nLoaded image: other:latest\n");
    docker(&t, "gzip <a.tar | docker image load -q")
        .prints("Loaded image: app:v1\nLoaded image: other:latest\n");
    docker(&t, "docker images -q --no-trunc").prints(&format!("{0}\n{0}\n", busybox().digest));
    docker(&t, "docker save nope >x").says("Error: No such image: nope:latest\n").exits(1);
    docker(&t, "docker load -i none.tar").says("none.tar: No such file").exits(1);
    docker(
        &t,
        &format!(
            "docker save {} >id.tar; TARE_ROOT=$PWD/third; export TARE_ROOT; docker load <id.tar",
            id()
        ),
    )
    .prints(&format!("Loaded image ID: {}\n", busybox().digest));
}

#[test]
fn tag_is_silent() {
    let t = Sandbox::with_image("app:v1");
    docker(&t, "docker tag app:v1 app:v2; docker image tag app:v1 host:5000/app").is_silent();
    t.sh("img-ls --format '{{.Repository}}:{{.Tag}}' | sort")
        .prints("app:v1\napp:v2\nhost:5000/app:latest\n");
    docker(&t, "docker tag nope:1 app")
        .says("Error: No such image: nope:1\nhint: img-pull nope:1")
        .exits(1);
    docker(&t, "docker tag app:v1").fails(
        "docker: 'docker tag' requires 2 arguments\n\n\
         Usage:  docker tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]\n\n\
         Run 'docker tag --help' for more information\n",
    );
}

#[test]
fn images_is_the_table() {
    let t = Sandbox::with_image("app:v1");
    t.store(busybox(), "other:v2");
    let id = id();
    t.sh("img-ls >ls").is_silent();
    for verb in ["images", "image ls", "image list"] {
        docker(&t, &format!("docker {verb} | cmp - ls")).is_silent();
    }
    docker(&t, "docker images -q").prints(&format!("{id}\n{id}\n"));
    docker(&t, "docker images -aq app").prints(&format!("{id}\n"));
    docker(&t, "docker images -q --no-trunc app:v1").prints(&format!("{}\n", busybox().digest));
    docker(&t, "docker images -q=false app:v1 | wc -l").prints("2\n");
    docker(&t, "docker images --format '{{.Repository}}' --filter reference='oth*'")
        .prints("other\n");
    docker(&t, "docker images --digests -f dangling=true | wc -l").prints("1\n");
    docker(&t, "docker images -q -- nope").prints("");
}

#[test]
fn build_says_what_docker_says() {
    let t = Sandbox::new();
    t.write("Dockerfile", "FROM scratch\nARG A\nARG B\nENV a=$A b=$B\nCOPY Dockerfile /\n");
    let build = "build --build-arg A=1 --build-arg=B=2 --provenance=false --load --rm";
    let id = docker(&t, &format!("docker {build} -q -t app:v1 .")).text();
    t.sh("img-inspect -f '{{.Id}}' app:v1").prints(&id);
    t.sh("img-inspect -f '{{.Config.Env}}' app:v1 | grep -o 'a=1 b=2'").prints("a=1 b=2\n");
    for verb in ["buildx", "builder", "image"] {
        docker(&t, &format!("docker {verb} {build} --iidfile id -tapp . 2>said; cat id; echo"))
            .prints(&id);
    }
    docker(&t, "docker build -o - . 2>said | tar -t").prints("Dockerfile\n");
    docker(&t, "docker build -qo out . && ls out").says("").ends_with("Dockerfile\n");
    docker(&t, "docker build - <Dockerfile -q --check")
        .prints("Check complete, no warnings found.\n");
    docker(&t, "docker build nope").says("nope: No such file or directory").exits(1);
    docker(&t, "docker build --nope .").says("unknown flag: --nope\n").exits(125);
    docker(&t, "docker build").says("'docker build' requires 1 argument\n").exits(1);
    docker(&t, "docker builder prune -f").says("/cache/build\n").exits(125);
}

#[test]
fn import_prints_the_id() {
    let t = Sandbox::new();
    t.sh(&format!("mkdir tree; cd tree; {} >../rootfs.tar", busybox_layer())).is_silent();
    let imported =
        docker(&t, "docker import -m new -c 'CMD [\"id\"]' --change 'USER app' rootfs.tar app:v1")
            .text();
    t.sh("img-inspect -f '{{.Id}}' app:v1").prints(&imported);
    t.sh("img-inspect -f '{{.Config.Cmd}} {{.Config.User}} {{.Comment}}' app:v1")
        .prints("[id] app new\n");
    docker(&t, "docker image import - app:v2 <rootfs.tar | cut -d: -f1").prints("sha256\n");
    docker(&t, "docker import rootfs.tar")
        .says("an image gets a name when it is imported")
        .exits(1);
    docker(&t, "docker import https://example.org/x.tar app").says("fetch it first").exits(1);
}

#[test]
fn inspect_is_img_inspect() {
    let t = Sandbox::with_image("app:v1");
    t.sh("img-inspect app:v1 >wanted").is_silent();
    for verb in ["inspect", "image inspect", "inspect --type image", "inspect --type=image"] {
        docker(&t, &format!("docker {verb} app:v1 | cmp - wanted")).is_silent();
    }
    docker(&t, "docker inspect -f '{{.Os}}' app:v1 app:v1").prints("linux\nlinux\n");
    docker(&t, "docker inspect app:v1 --format={{.Os}}").prints("linux\n");
    docker(&t, "docker image inspect --platform linux/s390x app:v1")
        .says("no image for linux/s390x")
        .exits(1);
    let hint = "hint: img-pull nope:latest, or img-ls for what is here\n";
    docker(&t, "docker inspect nope").outputs(
        "[]\n",
        &format!("Error: No such object: nope:latest\n{hint}"),
        1,
    );
    docker(&t, "docker image inspect nope").outputs(
        "[]\n",
        &format!("Error: No such image: nope:latest\n{hint}"),
        1,
    );
    docker(&t, "docker inspect -s -f '{{.Os}}' app:v1").outputs(
        "linux\n",
        "WARNING: --size ignored for image\n",
        0,
    );
    docker(&t, "docker inspect --type container app:v1")
        .fails("docker: --type container: only images can be inspected yet\n");
    docker(&t, "docker inspect --platform linux app:v1")
        .says("unknown flag: --platform\n")
        .exits(125);
}

#[test]
fn history_is_img_history() {
    let t = Sandbox::with_image("app:v1");
    for options in
        ["", "-q", "--no-trunc", "-H=false", "--format json", "--platform linux", "-q --no-trunc"]
    {
        t.sh(&format!("img-history {options} app:v1 >wanted")).is_silent();
        docker(&t, &format!("docker history {options} app:v1 | cmp - wanted")).is_silent();
    }
    docker(&t, "docker image history -H --human=false -q app:v1").prints(&format!("{}\n", id()));
    docker(&t, "docker history nope").says("Error: No such image: nope:latest\n").exits(1);
}

#[test]
fn rmi_says_what_went() {
    let t = Sandbox::with_image("app:v1");
    t.store(busybox(), "app:v2");
    t.store(busybox(), "other");
    let digest = &busybox().digest;
    docker(&t, "docker rmi app:v2").prints("Untagged: app:v2\n");
    docker(&t, "docker rmi nope app:v1").outputs(
        "Untagged: app:v1\n",
        "Error: No such image: nope:latest\nhint: img-ls for what is here\n",
        1,
    );
    docker(&t, "docker image rm other")
        .prints(&format!("Untagged: other:latest\nDeleted: {digest}\n"));
    t.store(busybox(), "app:v1");
    t.store(busybox(), "app:v2");
    docker(&t, &format!("docker image remove {}", id())).says("img-rm: ").exits(1);
    docker(&t, &format!("docker rmi --force {}", id()))
        .prints(&format!("Untagged: app:v1\nUntagged: app:v2\nDeleted: {digest}\n"));
    docker(&t, "docker images -q").prints("");
}

/// Puts an image that has lost its name into the store, and returns its digest.
fn unnamed(t: &Sandbox) -> &'static str {
    t.store(busybox(), "app:v1");
    let layer = format!("mkdir etc; echo x >etc/x; {}", sandbox::image::PACK);
    let other = sandbox::image::Image::new(&[&layer], &serde_json::json!({}));
    t.store(&other, "other");
    t.sh("img-tag other app:v1 >$TMPDIR/x; rm $TMPDIR/x").is_silent();
    &busybox().digest
}

#[test]
fn prune_asks_and_says_what_it_gave() {
    let t = Sandbox::new();
    let digest = unnamed(&t);
    let question =
        "WARNING! This will remove all dangling images.\nAre you sure you want to continue? [y/N] ";
    docker(&t, "docker image prune").prints(question);
    docker(&t, "echo n | docker image prune").prints(question);
    docker(&t, "docker images -q | wc -l").prints("3\n");
    // How much that gives depends on the busybox that there is.
    let space = "sed 's/space: [1-9][0-9.]*[kM]*B/space: some/'";
    docker(&t, &format!("echo y | docker image prune | {space}")).prints(&format!(
        "{question}Deleted Images:\ndeleted: {digest}\n\nTotal reclaimed space: some\n"
    ));
    docker(&t, "docker image prune -f").prints("Total reclaimed space: 0B\n");
    docker(&t, "docker image prune -af --filter label=nope").prints("Total reclaimed space: 0B\n");
    let left = t.sh("img-inspect -f '{{.Id}}' other").text();
    let left = left.trim_end();
    docker(&t, &format!("docker image prune --all --force | {space}")).prints(&format!(
        "Deleted Images:\nuntagged: other:latest\nuntagged: app:v1\ndeleted: {left}\n\nTotal reclaimed space: some\n"
    ));
    docker(&t, "docker image prune --filter x").says("bad format of filter").exits(125);
}

#[test]
fn system_prune_and_df_are_about_what_there_is() {
    let t = Sandbox::new();
    let digest = unnamed(&t);
    docker(&t, "docker system df | tr -s ' ' | cut -d' ' -f 1-3")
        .prints("TYPE TOTAL ACTIVE\nImages 2 0\n");
    t.sh("du -sb $TARE_ROOT/images/blobs | numfmt --to=si --field 1 | cut -c1 >du").is_silent();
    docker(&t, "docker system df | tail -n 1 | tr -s ' ' | cut -d' ' -f 4 | cut -c1 | cmp - du")
        .is_silent();
    docker(&t, "docker system prune").prints(
        "WARNING! This will remove:\n  - all dangling images\n\nAre you sure you want to continue? [y/N] ",
    );
    docker(&t, "docker system prune -f | head -n 2")
        .prints(&format!("Deleted Images:\ndeleted: {digest}\n"));
    t.store(busybox(), "runs");
    t.sh("ctr-spawn --name kept runs true").is_silent();
    docker(&t, "docker system prune -f").outputs(
        "Total reclaimed space: 0B\n",
        "docker: containers stay: they are removed with ctr-spawn --rm, or by hand\n",
        0,
    );
    docker(&t, "docker system df | tail -n 1 | tr -s ' ' | cut -d' ' -f 1-3")
        .prints("Images 2 1\n");
    docker(&t, "docker system prune --volumes").says("not supported here").exits(125);
}

#[test]
fn run_ends_as_its_process() {
    let t = Sandbox::with_image("app:v1");
    docker(&t, "echo in | docker run --rm -i app:v1 sh -c 'cat; exit 7'").outputs("in\n", "", 7);
    docker(&t, "docker container run --rm app:v1 nope").exits(127);
    docker(&t, "docker run --no-such app:v1").exits(125);
}

#[test]
fn version_and_info_say_what_is_here() {
    let t = Sandbox::with_image("app:v1");
    let version = env!("CARGO_PKG_VERSION");
    docker(&t, "docker version").says("").text();
    docker(&t, "docker version --format '{{.Server.Version}} {{ .Client.Os }}'")
        .prints(&format!("{version} linux\n"));
    docker(&t, "docker --version; docker -v")
        .prints(&format!("Docker version {version}, build tare\n").repeat(2));
    docker(&t, "docker info --format '{{.Images}} {{.Containers}} {{.OSType}}'; docker system info -f {{.ServerVersion}}")
        .prints(&format!("1 0 linux\n{version}\n"));
    docker(&t, "docker info | grep -c 'Images: 1$'").prints("1\n");
    docker(&t, "docker info -f '{{json .}}'").says("only names of fields can be in it").exits(1);
    docker(&t, "docker version --format json").fails(
        "docker: --format: only names of fields can be in it, as {{.Client.Version}}, and not 'json'\n",
    );
    docker(
        &t,
        "docker | head -1; docker help | head -1; docker --help | head -1; docker image | head -1",
    )
    .prints(&"Usage:  docker [OPTIONS] COMMAND\n".repeat(4));
    docker(&t, "docker pull --help; docker images --help").prints(
        "Usage:  docker pull [OPTIONS] NAME[:TAG|@DIGEST]\nUsage:  docker images [OPTIONS] [REPOSITORY[:TAG]]\n",
    );
}

#[test]
fn a_wrong_command_line_ends_as_dockers() {
    let t = Sandbox::with_image("app:v1");
    // All of this is what Docker 28.5 says.
    let usage = "\n\nUsage:  docker images [OPTIONS] [REPOSITORY[:TAG]]\n\nRun 'docker images --help' for more information\n";
    for (words, said, code) in [
        ("images --foo", "unknown flag: --foo", 125),
        ("images --foo=bar app", "unknown flag: --foo", 125),
        ("images -x", "unknown shorthand flag: 'x' in -x", 125),
        ("images -qx", "unknown shorthand flag: 'x' in -x", 125),
        ("images --filter", "flag needs an argument: --filter", 125),
        (
            "images --filter foo",
            "invalid argument \"foo\" for \"-f, --filter\" flag: bad format of filter (expected name=value)",
            125,
        ),
        (
            "images --no-trunc=maybe",
            "invalid argument \"maybe\" for \"--no-trunc\" flag: strconv.ParseBool: parsing \"maybe\": invalid syntax",
            125,
        ),
        ("images a b", "docker: 'docker images' requires at most 1 argument", 1),
    ] {
        docker(&t, &format!("docker {words}")).outputs("", &format!("{said}{usage}"), code);
    }
    docker(&t, "docker pull").fails(
        "docker: 'docker pull' requires 1 argument\n\nUsage:  docker pull [OPTIONS] NAME[:TAG|@DIGEST]\n\n\
         Run 'docker pull --help' for more information\n",
    );
    docker(&t, "docker rmi").fails(
        "docker: 'docker rmi' requires at least 1 argument\n\nUsage:  docker rmi [OPTIONS] IMAGE [IMAGE...]\n\n\
         See 'docker rmi --help' for more information\n",
    );
    docker(&t, "docker foo")
        .fails("docker: unknown command: docker foo\n\nRun 'docker --help' for more information\n");
    docker(&t, "docker image foo").fails(
        "docker: unknown command: docker image foo\n\nUsage:  docker image\n\nRun 'docker image --help' for more information\n",
    );
    docker(&t, "docker buildx create").says("unknown command: docker buildx create\n").exits(1);
    docker(&t, "docker --foo images").says("unknown flag: --foo\n").exits(125);
}

#[test]
fn what_is_not_here_yet_is_said_and_not_passed_over() {
    let t = Sandbox::with_image("app:v1");
    for (words, said, code) in [
        ("build --sbom=true .", "'docker build --sbom': images have no attestations here", 125),
        ("buildx build --builder x .", "'docker buildx build --builder': not supported here", 125),
        ("ps", "'docker ps' is not here yet: it comes with ctr-ps", 1),
        (
            "container exec x y",
            "'docker container exec' is not here yet: it comes with ctr-exec",
            1,
        ),
        ("container list", "'docker container list' is not here yet: it comes with ctr-ps", 1),
        ("container prune", "'docker container prune' is not here yet: it comes with ctr-prune", 1),
        ("volume", "'docker volume' is not here yet: it comes with vol-ls", 1),
        (
            "pull --disable-content-trust=false app",
            "'docker pull --disable-content-trust': not supported here",
            125,
        ),
        ("images --tree", "'docker images --tree': not supported here", 125),
        ("-H tcp://x images", "'docker -H': there is no daemon here", 125),
        ("--context x images", "'docker --context': there is no daemon here", 125),
    ] {
        docker(&t, &format!("docker {words}")).outputs("", &format!("docker: {said}\n"), code);
    }
}

#[test]
fn the_formats_of_dockers_config_are_read() {
    let t = Sandbox::with_image("app:v1");
    // JSON makes two backslashes one, and `\t` is two characters to whoever reads it.
    t.sh(r#"mkdir conf; echo '{"imagesFormat": "table {{.Tag}}\\t{{truncate .ID 4}}\\t{{upper .Repository}}"}' >conf/config.json"#)
        .is_silent();
    let table = format!("TAG       IMAGE ID   REPOSITORY\nv1        {}       APP\n", &id()[..4]);
    docker(&t, "docker --config conf images").prints(&table);
    docker(&t, "DOCKER_CONFIG=conf docker images").prints(&table);
    docker(&t, "docker --config=conf images --format '{{.Tag}}'; docker --config conf images -q")
        .prints(&format!("v1\n{}\n", id()));
}

#[test]
fn the_shim_finds_the_tools_where_they_are_installed() {
    let t = Sandbox::with_image("app:v1");
    let shim = workspace().join("scripts/docker");
    t.sh(&format!(
        "mkdir -p usr/libexec/tare usr/bin; cp {} usr/libexec/tare; cp $(command -v img-ls) usr/bin
         PATH=/usr/bin:/bin usr/libexec/tare/docker images --format '{{{{.Tag}}}}'
         ln -s $PWD/usr/libexec/tare/docker d; PATH=/usr/bin:/bin ./d images --format '{{{{.Tag}}}}'",
        shim.display()
    ))
    .prints("v1\nv1\n");
}
