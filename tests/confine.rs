//! What a tool gives up before it reads what strangers wrote.

use sandbox::Sandbox;

/// Runs a tool that waits for its input, and prints what the kernel says of it meanwhile.
fn waiting(t: &Sandbox, tool: &str) {
    let script = format!(
        "mkfifo pipe
         {tool} <pipe 2>/dev/null & pid=$!
         exec 3>pipe
         for try in $(seq 100); do
             grep -q 'NoNewPrivs:.1' /proc/$pid/status && break
             sleep .1
         done
         tr -s '\\t' ' ' </proc/$pid/status | grep NoNewPrivs
         exec 3>&-
         wait $pid; rm pipe"
    );
    t.sh(&script).prints("NoNewPrivs: 1\n");
}

#[test]
fn readers_of_hostile_bytes_confine_themselves_first() {
    for t in [Sandbox::new(), Sandbox::new().as_user()] {
        waiting(&t, "img-pull --stdin");
        waiting(&t, "img-push - 127.0.0.1:1/app");
        waiting(&t, "img-unpack - out");
        waiting(&t, "img-import - name");
        waiting(&t, "img-load");
        waiting(&t, "img-save -o out -");
        waiting(&t, "img-inspect --raw -");
        waiting(&t, "img-history -");
    }
}
