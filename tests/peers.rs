//! Beside others: what we write they read, what they write we read, and both agree on what is in it.

use sandbox::image::python;
use sandbox::{Sandbox, lacks};

/// What these tests need.
const PEERS: &[&str] =
    &["root", "skopeo", "umoci", "podman", "buildah", "crun", "runc", "mmdebstrap"];

#[test]
fn skopeo_inspects_the_store() {
    if lacks(PEERS) {
        return;
    }
    let t = Sandbox::new();
    t.store(python(), "py:1");
    t.sh("img-tag py:1 host:5000/team/py:2 >tag").is_silent();
    t.sh(
        "skopeo inspect -f '{{.Digest}} {{len .Layers}}' oci:$TARE_ROOT/images:host:5000/team/py:2",
    )
    .prints(&format!("{} 3\n", python().digest));
}
