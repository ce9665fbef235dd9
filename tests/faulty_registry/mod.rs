//! img-pull and img-push against registries that do everything wrong, one thing at a time.
//!
//! A row says what happens and how it must end. What every row is held to besides,
//! the whole image or no name, secrets that stay where they belong, a bounded
//! time and memory, is [`sandbox::faulty::fault`]'s.

mod answers;
mod auth;
mod blobs;
mod connections;
mod credentials;
mod documents;
mod network;
mod push;
mod redirects;
mod silence;
mod tls;
mod tools;

use std::collections::BTreeSet;

use sandbox::faulty::fault::Fault;

#[test]
fn the_list_has_no_row_twice() {
    let tables: [fn() -> Vec<Fault>; 18] = [
        answers::faults,
        auth::challenges,
        auth::tokens,
        auth::realms,
        blobs::faults,
        connections::faults,
        credentials::faults,
        documents::bodies,
        documents::manifests,
        network::faults,
        push::begins,
        push::breaks,
        push::ends,
        push::secrets,
        redirects::faults,
        silence::faults,
        tls::faults,
        tools::faults,
    ];
    let stories: Vec<String> =
        tables.iter().flat_map(|table| table()).map(|fault| fault.story().to_owned()).collect();
    let different: BTreeSet<&String> = stories.iter().collect();
    assert_eq!(stories.len(), different.len());
    eprintln!("{} faults", stories.len());
}
