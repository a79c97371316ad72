//! Network interfaces, as rtnetlink tells of them.

use rtnetlink::packet_route::{
    RouteNetlinkMessage as Message,
    link::{InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkXdp, VlanProtocol},
};

/// A network interface, as far as the engine cares.
#[derive(Clone, Debug, Default)]
pub struct Link {
    /// The kernel's, unique in a network namespace and above 0.
    pub index: u32,
    /// Of at most 15 bytes; may change while the index stays.
    pub name: String,
    /// Hardware address of an Ethernet device.
    pub mac: Option<[u8; 6]>,
    /// Bytes of an IP packet; native XDP of many drivers takes no more than a page.
    pub mtu: u32,
    /// Set by the administrator (`IFF_UP`); the carrier is another matter.
    pub up: bool,
    /// XDP never sees it.
    pub loopback: bool,
    /// Parent device and tag of an 802.1Q subinterface.
    pub vlan: Option<Vlan>,
    /// Id of the XDP program that is attached in whatever mode.
    pub xdp_program: Option<u32>,
}

/// What makes an interface a VLAN subinterface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlan {
    pub parent: u32,
    pub id: u16,
    /// 802.1ad (a second, outer tag), which the datapath does not write.
    pub service_tag: bool,
}

pub(super) fn as_link(message: Message) -> Option<Link> {
    let Message::NewLink(message) = message else { return None };
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        ..Link::default()
    };
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let (mut parent, mut tag) = (None, None);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) if ethernet => link.mac = mac.try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Link(index) => parent = Some(index),
            LinkAttribute::LinkInfo(info) => tag = vlan_tag(&info),
            LinkAttribute::Xdp(xdp) => {
                link.xdp_program = xdp.iter().find_map(|attribute| match attribute {
                    LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) if *id != 0 => Some(*id),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link.vlan = tag.zip(parent).map(|((id, service_tag), parent)| Vlan { parent, id, service_tag });
    Some(link)
}

fn vlan_tag(info: &[LinkInfo]) -> Option<(u16, bool)> {
    let data = info.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vlan(data)) => Some(data),
        _ => None,
    })?;
    let id = data.iter().find_map(|attribute| match attribute {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })?;
    let service_tag = data.contains(&InfoVlan::Protocol(VlanProtocol::Ieee8021Ad));
    Some((id, service_tag))
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::LinkMessage;

    use super::*;

    #[test]
    fn vlan_attributes_make_a_vlan() {
        let mut message = LinkMessage::default();
        message.header.index = 9;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = LinkFlags::Up;
        let vlan = |protocol| LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(7), InfoVlan::Protocol(protocol)]));
        for (protocol, service_tag) in [(VlanProtocol::Ieee8021Q, false), (VlanProtocol::Ieee8021Ad, true)] {
            message.attributes = vec![
                LinkAttribute::IfName("eth0.7".into()),
                LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
                LinkAttribute::Link(3),
                LinkAttribute::LinkInfo(vec![vlan(protocol)]),
            ];
            let link = as_link(Message::NewLink(message.clone())).expect("a link");
            assert_eq!(link.vlan, Some(Vlan { parent: 3, id: 7, service_tag }));
            assert_eq!((link.index, link.up, link.mac), (9, true, Some([2, 0, 0, 0, 0, 1])));
        }
    }
}
