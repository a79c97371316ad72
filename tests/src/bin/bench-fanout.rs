fn main() -> anyhow::Result<()> {
    use penstock_tests::bench::{case::Case, contender::Contender, load::Load, run::*};
    use std::time::Duration;
    let times = Times { warm_up: Duration::from_millis(800), measured: Duration::from_millis(1500) };
    let case = Case::fan_out(64, 1100);
    let load = Load::seal(&case, times.load());
    let idle = penstock_tests::bench::cpu::idle(Duration::from_secs(1))?;
    println!("idle {idle:?}");
    for subject in [Subject::Nobody].into_iter().chain(Contender::ALL.iter().map(|c| Subject::Contender(*c))) {
        let m = run(subject, &case, &load, times, false)?;
        println!("{subject:?}: {:?} process {:.3} copies {:.0} lost {}/{} under {} drops {:?} p50 {:?} p99 {:?} mem {:?} late {:?}",
            m.busy, m.process, m.copies, m.lost, m.expected, m.underruns, m.drops, m.latency.quantile(0.5), m.latency.quantile(0.99), m.memory, m.late);
    }
    Ok(())
}
