//! Access units to samples.

use penstock_rtp::aac::Config;
use symphonia_codec_aac::AacDecoder;
use symphonia_core::{
    codecs::audio::{AudioCodecParameters, AudioDecoder as _, AudioDecoderOptions, well_known::CODEC_ID_AAC},
    packet::PacketRef,
    units::{Duration, Timestamp},
};

/// Samples of a channel in a unit.
pub(crate) const SAMPLES: usize = 1024;

/// AAC-LC.
pub(crate) struct Decoder {
    decoder: AacDecoder,
    channels: usize,
}

impl Decoder {
    /// `None`: the library does not take this kind.
    pub(crate) fn new(config: Config) -> Option<Self> {
        let mut parameters = AudioCodecParameters::new();
        parameters.for_codec(CODEC_ID_AAC).with_extra_data(Box::new(config.audio_specific_config()));
        let decoder = AacDecoder::try_new(&parameters, &AudioDecoderOptions::default()).ok()?;
        Some(Self { decoder, channels: config.channels.into() })
    }

    /// Interleaved samples of a unit. `false`: there are none.
    pub(crate) fn decode(&mut self, unit: &[u8], samples: &mut Vec<f32>) -> bool {
        let packet = PacketRef::new(0, Timestamp::new(0), Duration::new(0), unit);
        match self.decoder.decode_ref(&packet) {
            Ok(decoded) => decoded.copy_to_vec_interleaved(samples),
            Err(_) => return false,
        }
        samples.len() == SAMPLES * self.channels
    }
}
