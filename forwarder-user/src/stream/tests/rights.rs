//! Rights that end, sessions that others end, and who is told.

use std::time::Duration;

use penstock_engine::clock::boottime_ns;
use tokio::sync::oneshot;

use super::lab::{Lab, PLAY, PUBLISH};
use super::*;
use crate::rights::Grant;
use crate::stream::{Command, Visitor, What};
use penstock_webrtc::sdp::Offer;

impl Lab {
    fn offer_until(&mut self, role: Role, sdp: &str, ends_ns: u64) -> crate::stream::Answer {
        let (reply, mut answer) = oneshot::channel();
        let visitor = Visitor { from: penstock_engine::block::Block::UNKNOWN, grant: Grant::until(ends_ns) };
        let offer = Offer::parse(sdp).map(Box::new);
        self.task.command(Command::Offer { role, stream: "room".into(), visitor, offer, reply }, self.now);
        answer.try_recv().unwrap().unwrap()
    }
}

/// The engine is told before any media can flow, so that it ends it alone; the control task follows.
#[tokio::test]
async fn a_right_that_ends_ends_the_session() {
    let mut lab = Lab::new(config()).await;
    let ends = boottime_ns() + 300_000_000;
    let publisher = lab.offer_until(Role::Publisher, PUBLISH, ends);
    let publisher = lab.connect(publisher);
    let viewer = lab.offer_until(Role::Subscriber, PLAY, ends + 600_000_000_000);
    let viewer = lab.connect(viewer);
    let calls = lab.engine.state().calls.clone();
    let told = calls.iter().position(|call| *call == format!("end_session_at {ends}")).unwrap();
    assert!(calls[..told].iter().all(|call| call.starts_with("add_session")), "{calls:?}");
    lab.task.run_timers(lab.now);
    assert_eq!(lab.task.sessions.keys(), [publisher.key, viewer.key]);
    tokio::time::sleep(Duration::from_millis(320)).await;
    lab.pass(Duration::from_millis(400));
    assert_eq!(lab.task.sessions.keys(), [viewer.key], "its right lasts");
    assert_eq!(lab.counters()["sessions_right_ended"], 1);
    let snapshot = lab.task.snapshot(lab.now);
    assert!(snapshot["sessions"][0]["right_ends_in_s"].as_f64().unwrap() > 590.0);
}

#[tokio::test]
async fn sessions_are_ended_by_their_names_and_whoever_listens_is_told() {
    let mut lab = Lab::new(config()).await;
    let mut notices = lab.task.notices.listen();
    let publisher = lab.publish("room");
    let viewer = lab.play("room");
    let name = viewer.answer.session.split('-').next().unwrap().to_owned();
    let kick = |lab: &mut Lab, session: &str| {
        let (reply, mut answer) = oneshot::channel();
        let (session, why) = (session.to_owned(), "because".to_owned());
        lab.task.command(Command::Kick { session, why, reply }, lab.now);
        answer.try_recv().unwrap()
    };
    assert!(kick(&mut lab, &name) && !kick(&mut lab, &name) && !kick(&mut lab, "none"));
    assert_eq!(lab.task.sessions.keys(), [publisher.key]);
    let end = |lab: &mut Lab, stream: &str| {
        let (reply, mut answer) = oneshot::channel();
        lab.task.command(Command::EndPublisher { stream: stream.into(), reply }, lab.now);
        answer.try_recv().unwrap()
    };
    assert!(end(&mut lab, "room") && !end(&mut lab, "room"));
    assert!(lab.task.sessions.is_empty());
    let mut told = vec![];
    while let Ok(notice) = notices.try_recv() {
        assert_eq!(notice.stream, "room");
        if let What::SessionClosed { session, reason, .. } = &notice.what {
            assert!(*session != name || reason == "because");
        }
        told.push(notice.what.name());
    }
    let wanted = [
        "session_opened",
        "session_connected",
        "stream_ready",
        "session_opened",
        "session_connected",
        "session_closed",
        "stream_gone",
        "session_closed",
    ];
    assert_eq!(told, wanted);
}

#[tokio::test]
async fn who_is_drained_takes_no_new_sessions() {
    let (control, _engine) = start(config());
    control.refuse_sessions(true);
    let refused =
        control.offer(Role::Publisher, "room".into(), penstock_engine::block::Block::UNKNOWN, PUBLISH.into()).await;
    assert!(refused.unwrap_err().to_string().contains("drained"));
    control.refuse_sessions(false);
    control
        .offer(Role::Publisher, "room".into(), penstock_engine::block::Block::UNKNOWN, PUBLISH.into())
        .await
        .unwrap();
}
