//! The maps of keystream ahead of time. The protocol: `forwarder_common::keystream`.

use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::{
    Ebpf,
    maps::{Map, MapData, RingBuf},
};
use forwarder_common::maps::Window;
use memmap2::{MmapOptions, MmapRaw};

use super::{StartError, load::describe};

/// The maps of the two threads of the producer.
pub struct Parts {
    /// `PUBLISHER_KEYSTREAMS` and `SUBSCRIBER_KEYSTREAMS`: a place for each track's ring.
    pub publishers: Map,
    /// Written by the thread that installs rings, as `publishers`.
    pub subscribers: Map,
    /// `WINDOWS`, an index for each publisher track slot.
    pub windows: MmapRaw,
    /// `KEYSTREAM_LOW`: windows that run low.
    pub low: RingBuf<MapData>,
}

impl Parts {
    /// Takes the maps out of a loaded object.
    ///
    /// # Errors
    /// [`StartError::Load`]: one is missing, or cannot be mapped.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, StartError> {
        let mut take =
            |name| ebpf.take_map(name).ok_or_else(|| StartError::Load(format!("the object has no map {name}")));
        let windows = match take("WINDOWS")? {
            Map::Array(data) => map_windows(&data).map_err(|error| StartError::Load(format!("WINDOWS: {error}")))?,
            _ => return Err(StartError::Load("WINDOWS is no array".into())),
        };
        let low = RingBuf::try_from(take("KEYSTREAM_LOW")?).map_err(|error| StartError::Load(describe(&error)))?;
        Ok(Self {
            publishers: take("PUBLISHER_KEYSTREAMS")?,
            subscribers: take("SUBSCRIBER_KEYSTREAMS")?,
            windows,
            low,
        })
    }
}

fn map_windows(data: &MapData) -> std::io::Result<MmapRaw> {
    let info = data.info().map_err(std::io::Error::other)?;
    if info.value_size() as usize != size_of::<Window>() {
        return Err(std::io::Error::other(format!("values of {} bytes", info.value_size())));
    }
    let len = info.max_entries() as usize * size_of::<Window>();
    MmapOptions::new().len(len).map_raw(data.fd().as_fd().as_raw_fd())
}
