//! Removing beside umoci: what it takes for needed, we leave, and what we leave, it can read.

use sandbox::image::{Image, busybox};
use sandbox::{Sandbox, lacks};
use serde_json::json;

use crate::faults::layout;
use crate::img_prune::image;

#[test]
fn what_is_left_of_a_layout_is_what_umoci_leaves() {
    if lacks(&["umoci"]) {
        return;
    }
    let t = Sandbox::new();
    for (year, name) in [(2001, "v1"), (2002, "v2"), (2003, "v3")] {
        image(year).copy_to(&t.path("work/out"), name);
    }
    busybox().copy_to(&t.path("work/out"), "busybox");
    let platform = json!({ "os": "linux", "architecture": "amd64" });
    let index = Image::index(&[(&image(2004), platform.clone()), (&image(2005), platform)]);
    index.copy_to(&t.path("work/out"), "index");
    t.sh("echo x >out/blobs/sha256/$(printf x | sha256sum | cut -c -64); cp -r out theirs")
        .is_silent();
    for name in ["v1", "v3", "index", "busybox"] {
        t.sh(&format!(
            "umoci rm --image theirs:{name} && umoci gc --layout theirs >/dev/null 2>&1 || exit
             img-rm ./out:{name} >/dev/null && img-prune -q --layout out || exit
             ls out/blobs/sha256 >a; ls theirs/blobs/sha256 >b; cmp a b && umoci ls --layout out | wc -l >left"
        ))
        .is_silent();
        layout::sound(&t.path("work/out")).unwrap();
    }
    t.sh("cat left; skopeo inspect --raw oci:out:v2 | sha256sum | cut -c -64")
        .prints(&format!("1\n{}\n", &image(2002).digest[7..]));
}
