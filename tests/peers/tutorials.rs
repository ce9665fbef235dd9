//! The Dockerfiles of the field's tutorials, as they stand, down to the last package.
//!
//! Their bases are Debian under the names that they ask for. What they install comes from Debian's
//! and PyPI's own servers, so these need the network that this machine's apt and pip have, and fail
//! without it. The one server that a test cannot rely on is played here, under its own name.

use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use sandbox::dockerd::Dockerd;
use sandbox::image::{Image, sha256};
use sandbox::{Sandbox, lacks};

use super::{CONTAINERS, PEERS};

/// The certificates that this machine trusts: the bases do, too.
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Makes an image of Debian with these packages, and with what the official images do otherwise:
/// pip may install for the whole system, and apt installs what it is told and no more.
const DEBIAN: &str = r#"
    exec >&2
    . /etc/os-release
    mmdebstrap --quiet --variant=apt --include="ca-certificates,$INCLUDE" --dpkgopt=force-unsafe-io \
        --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='APT::Install-Recommends "false"' \
        --customize-hook='cp /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/"' \
        --customize-hook='cat /etc/pip.conf >"$1/etc/pip.conf" 2>/dev/null || echo "[global]" >"$1/etc/pip.conf"' \
        --customize-hook='printf "[install]\nbreak-system-packages = true\n" >>"$1/etc/pip.conf"' \
        --customize-hook='test -e "$1/usr/bin/python" || ln -s python3 "$1/usr/bin/python"' \
        --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin "$1"/usr/share/doc "$1"/usr/share/man' \
        "$VERSION_CODENAME" tree.tar
    umoci init --layout layout
    umoci new --image layout:base
    umoci raw add-layer --image layout:base tree.tar
    umoci config --image layout:base --config.cmd bash \
        --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    umoci gc --layout layout
"#;

/// Returns Debian with these packages.
fn debian(include: &str) -> Image {
    let trusted = sha256(&fs::read(BUNDLE).unwrap_or_default());
    Image::made_by(&format!("# {trusted}\nINCLUDE={include}\n{DEBIAN}"))
}

/// Returns what plays `python:3.10-slim`.
fn python() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| debian("python3,python3-pip"))
}

/// Returns what plays the bases that bring no Python of their own.
fn plain() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| debian("bash"))
}

/// Returns the options that take a step to the servers of this machine.
fn proxies() -> String {
    let set = |name: &&str| std::env::var(name).is_ok_and(|value| !value.is_empty());
    let names = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"];
    let option = |name: &str| format!(" --build-arg '{name}={}'", std::env::var(name).unwrap());
    names.into_iter().filter(set).map(option).collect()
}

/// Returns a sandbox where there is time for what comes over a network.
fn patient() -> Sandbox {
    Sandbox::new().with_limit(Duration::from_secs(900))
}

const REQUIREMENTS: &str = "flask==3.0.3\nrequests>=2.31\n";

#[test]
fn an_app_is_copied_and_its_requirements_are_installed() {
    if lacks(PEERS) {
        return;
    }
    for t in [patient(), patient().as_user()] {
        t.store(python(), "python:3.10-slim");
        t.sh("mkdir app").is_silent();
        t.write(
            "app/Dockerfile",
            "FROM python:3.10-slim\n\
             WORKDIR /app\n\
             COPY . .\n\
             RUN pip install -r requirements.txt\n\
             CMD [\"python\", \"app.py\"]\n",
        );
        t.write("app/requirements.txt", REQUIREMENTS);
        t.write("app/app.py", "import flask, requests\nprint(flask.Flask('app').name)\n");
        let built = t.sh(&format!("img-build{} -t app app", proxies())).text();
        t.sh("ctr-spawn --rm app").prints("app\n");
        // Nothing has changed, so nothing is done, and it is the same.
        t.sh(&format!("img-build -q{} -t app app", proxies())).prints(&built);
    }
}

#[test]
fn requirements_first_and_the_code_after_them() {
    if lacks(PEERS) {
        return;
    }
    let t = patient();
    t.store(python(), "python:3.10-slim");
    t.sh("mkdir app").is_silent();
    t.write(
        "app/Dockerfile",
        "FROM python:3.10-slim\n\
         \n\
         WORKDIR /app\n\
         \n\
         COPY requirements.txt .\n\
         RUN pip install --no-cache-dir -r requirements.txt\n\
         \n\
         COPY . .\n\
         \n\
         ENTRYPOINT [\"python\", \"main.py\"]\n",
    );
    t.write("app/requirements.txt", REQUIREMENTS);
    t.write("app/main.py", "import sys, flask\nprint('one', *sys.argv[1:])\n");
    let first = t.sh(&format!("img-build{} -t app app", proxies())).text();
    t.sh("ctr-spawn --rm app a b").prints("one a b\n");
    t.sh("img-inspect app | jq -c '.[0].RootFS.Layers' >one").is_silent();

    // Other code is another image, of the same layers but for the last.
    t.write("app/main.py", "import sys, requests\nprint('two', *sys.argv[1:])\n");
    let second = t.sh(&format!("img-build{} -t app app", proxies()));
    assert!(second.took < Duration::from_secs(10), "pip has run again: {:?}", second.took);
    assert_ne!(second.text(), first);
    t.sh("ctr-spawn --rm app c").prints("two c\n");
    t.sh("img-inspect app | jq -c '.[0].RootFS.Layers' >two; jq -cs '.[0][:-1] == .[1][:-1]' one two").prints("true\n");
}

#[test]
fn a_cuda_base_gets_pip_by_apt() {
    if lacks(PEERS) {
        return;
    }
    let t = patient();
    t.store(plain(), "docker.io/nvidia/cuda:12.1-cudnn8-runtime-ubuntu22.04");
    t.sh("mkdir app").is_silent();
    t.write(
        "app/Dockerfile",
        "FROM nvidia/cuda:12.1-cudnn8-runtime-ubuntu22.04\n\
         \n\
         WORKDIR /workspace\n\
         COPY . /workspace\n\
         \n\
         RUN apt-get update && apt-get install -y python3-pip && \\\n    \
             pip install -r requirements.txt\n\
         \n\
         CMD [\"python3\", \"infer.py\"]\n",
    );
    t.write("app/requirements.txt", "numpy==1.26.4\n");
    t.write("app/infer.py", "import numpy\nprint(numpy.arange(4).sum())\n");
    t.sh(&format!("img-build{} -t infer app", proxies())).text();
    t.sh("ctr-spawn --rm infer").prints("6\n");
}

/// Plays the installer: it makes a `conda` that knows what the competition's Dockerfile asks of it.
const INSTALLER: &str = r##"#!/bin/bash
set -e
prefix=$HOME/miniconda3
while getopts bfp: option; do
    [[ $option != p ]] || prefix=$OPTARG
done
mkdir -p "$prefix/bin" "$prefix/envs"
cat >"$prefix/bin/conda" <<'END'
#!/bin/bash
prefix=$(cd "$(dirname "$0")/.." && pwd)
case "$1 $2" in
    "env create")
        file=environment.yml
        while shift; do [[ $1 != -f ]] || file=$2; done
        name=$(sed -n 's/^name: *//p' "$file")
        [[ -n $name && ! -e $prefix/envs/$name ]] || { echo "CondaValueError: prefix already exists" >&2; exit 1; }
        mkdir -p "$prefix/envs/$name/conda-meta"
        sed -n 's/^ *- //p' "$file" >"$prefix/envs/$name/conda-meta/history"
        ;;
    "env list")
        echo "base $prefix"
        for env in "$prefix"/envs/*; do echo "${env##*/} $env"; done
        ;;
    *) echo "conda: $*: not played" >&2; exit 2 ;;
esac
END
cat >"$prefix/bin/activate" <<'END'
export CONDA_DEFAULT_ENV=$1 CONDA_PREFIX=$(dirname "$(dirname "$(command -v conda)")")/envs/$1
[ -d "$CONDA_PREFIX" ]
END
chmod 755 "$prefix/bin/conda" "$prefix/bin/activate"
"##;

/// The server of the installer.
const ANACONDA: &str = "repo.anaconda.com";

/// A server of files over TLS, ended by its pid.
struct Server(Child);

impl Server {
    /// Serves `work/served` at port 443 of an address of this machine's own network, and returns the address.
    fn start(t: &Sandbox) -> (Server, String) {
        t.sh(&format!(
            "mkdir -p served/miniconda tls && cd tls || exit
             key='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
             openssl req -x509 $key -keyout ca.key -out ca.pem -days 2 -subj /CN=test-authority 2>log || cat log
             openssl req -x509 $key -keyout key -out cert -days 2 -subj /CN={ANACONDA} -CA ca.pem -CAkey ca.key \
                 -addext subjectAltName=DNS:{ANACONDA} -addext basicConstraints=CA:FALSE 2>log || cat log"
        ))
        .is_silent();
        let pid = std::process::id();
        let address = format!("127.{}.{}.{}", 64 + (pid >> 16) % 64, (pid >> 8) % 256, pid % 254 + 1);
        let server = Command::new("openssl")
            .args(["s_server", "-quiet", "-WWW", "-accept", &format!("{address}:443")])
            .args(["-cert", "../tls/cert", "-key", "../tls/key"])
            .current_dir(t.path("work/served"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl");
        let server = Server(server);
        for _ in 0..100 {
            if TcpStream::connect((address.as_str(), 443)).is_ok() {
                return (server, address);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("nothing listens at {address}:443");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_competitions_dockerfile() {
    if lacks(PEERS) || lacks(&["openssl"]) {
        return;
    }
    let t = patient();
    plain().copy_to(&t.path("work/base"), "base");
    let (_server, address) = Server::start(&t);
    t.write("served/miniconda/Miniconda3-latest-Linux-x86_64.sh", INSTALLER);
    t.sh(&format!(
        "mkdir -p .$(dirname {BUNDLE}) && cat {BUNDLE} tls/ca.pem >.{BUNDLE} && tar -cf bundle.tar .{BUNDLE} &&
         umoci raw add-layer --image base:base bundle.tar >log 2>&1 &&
         img-tag $(img-save ./base:base | img-load -q) supervisely/sam3:1.0.6 >>log"
    ))
    .is_silent();
    t.sh("mkdir -p app/model").is_silent();
    t.write(
        "app/Dockerfile",
        "FROM supervisely/sam3:1.0.6\n\
         \n\
         RUN mkdir -p /raytron/code\n\
         \n\
         RUN apt-get update && apt-get install -y \\\n    \
             wget \\\n    \
             curl \\\n    \
             && rm -rf /var/lib/apt/lists/*\n\
         \n\
         ENV PATH=\"/root/miniconda3/bin:${PATH}\"\n\
         \n\
         RUN wget https://repo.anaconda.com/miniconda/Miniconda3-latest-Linux-x86_64.sh \\\n    \
             && bash Miniconda3-latest-Linux-x86_64.sh -b \\\n    \
             && rm -f Miniconda3-latest-Linux-x86_64.sh\n\
         \n\
         COPY . /raytron/code/\n\
         \n\
         WORKDIR /raytron/code\n\
         \n\
         RUN conda env create -f environment.yml\n\
         \n\
         RUN ls /raytron/code/model/\n",
    );
    t.write("app/environment.yml", "name: raytron\ndependencies:\n  - python=3.10\n  - pip\n");
    t.write("app/model/weights.pth", vec![7u8; 1 << 20]);
    t.write("app/run.py", "print('here')\n");
    let build = format!("--add-host {ANACONDA}:{address}{} -t entry app", proxies());
    let built = t.sh(&format!("img-build {build}")).text();
    t.sh("ctr-spawn --rm entry bash -c '
            conda env list && . activate raytron && echo $CONDA_DEFAULT_ENV && cat $CONDA_PREFIX/conda-meta/history &&
            pwd && ls model && command -v wget curl && ls /var/lib/apt/lists && ! ls /*.sh 2>/dev/null &&
            ! grep anaconda /etc/hosts'")
        .prints(
            "base /root/miniconda3\nraytron /root/miniconda3/envs/raytron\nraytron\npython=3.10\npip\n\
             /raytron/code\nweights.pth\n/usr/bin/wget\n/usr/bin/curl\n",
        );
    t.sh(&format!("img-build -q {build}")).prints(&built);
}

#[test]
fn what_is_built_runs_under_podman_docker_and_ctr_spawn() {
    if lacks(PEERS) || lacks(&["dockerd"]) {
        return;
    }
    let t = Sandbox::with_image("base:1");
    t.write("file", "copied\n");
    t.write(
        "tool",
        "#!/bin/sh\necho $WHAT \"$@\"; id -un; pwd; cat /data/file; stat -c %U /data/file\n",
    );
    t.write(
        "Dockerfile",
        "FROM base:1\n\
         ENV WHAT=\"an image\" PATH=/opt/bin:$PATH\n\
         COPY --chown=app file /data/\n\
         COPY --chmod=755 tool /opt/bin/\n\
         RUN rm /bin/vi && touch /made\n\
         WORKDIR /home/app\n\
         USER app\n\
         ENTRYPOINT [\"tool\", \"says\"]\n\
         CMD [\"nothing\"]\n",
    );
    t.sh("img-build -q -t made . >line").is_silent();
    let said = |word: &str| format!("an image says {word}\napp\n/home/app\ncopied\napp\n");
    let both = said("nothing") + &said("a b");
    t.sh("ctr-spawn --rm made && ctr-spawn --rm made 'a b'").prints(&both);
    t.sh(&format!(
        "{CONTAINERS}
         printf '[containers]\npids_limit = 0\ndefault_ulimits = [\"nofile=1024:4096\", \"nproc=1024:4096\"]\n' >>containers.conf
         img-save -o made.tar made; podman load -q -i made.tar >loaded || exit
         podman --runtime runc run --rm --network none docker.io/library/made &&
         podman --runtime runc run --rm --network none docker.io/library/made 'a b'"
    ))
    .prints(&both);
    let daemon = Dockerd::building(&t);
    t.sh("$DOCKER load -q -i made.tar >loaded || exit
          $DOCKER run --rm --network none made && $DOCKER run --rm --network none made 'a b'")
        .prints(&both);
    drop(daemon);
}
