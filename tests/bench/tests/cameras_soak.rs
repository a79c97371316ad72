//! Many cameras, for a while. The whole soak is `cargo xtask soak cameras`.

use std::time::Duration;

use anyhow::Result;
use tests_bench::cameras::soak::soak;

#[test]
fn sixty_four_cameras_for_twenty_seconds() -> Result<()> {
    soak(64, Duration::from_secs(20), &mut |_| ()).map(drop)
}
