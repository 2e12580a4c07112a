//! A store whose disk fails stops: what is durable is unknown then.

use preload_observer::Config;
use test_raftstore::REGION_ID;

use crate::{
    child, set,
    support::{Preloading, put},
};

#[test]
fn store_that_cannot_write_its_log_goes_down() {
    if child::is_child() {
        child::behave_like_a_node();
        let preloading = Preloading::start(&[1, 2, 3], Config::default());
        put(&preloading.cluster, b"k", b"v");
        let _fail = set("raft_log_engine::write::error", "return");
        // Not acknowledged: the process is gone before.
        let _ = preloading.cluster.execute(REGION_ID, |region| {
            let put = test_raftstore::requests::put(engine_traits::Cf::Default, b"k", b"w");
            test_raftstore::requests::write(region, vec![put])
        });
        return;
    }
    let output = child::run("storage::store_that_cannot_write_its_log_goes_down");
    assert!(!output.status.success(), "{output:?}");
    let fatal = child::fatal_lines(&output);
    assert!(fatal.iter().any(|line| line.contains("cannot write the Raft log")), "{output:?}");
}
