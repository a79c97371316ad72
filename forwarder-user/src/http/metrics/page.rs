//! Samples on their way to the text format.

use prometheus::proto::{Counter, Gauge, LabelPair, Metric as Sample, MetricFamily, MetricType};

use super::names::Metric;

/// Values of the labels, in the order of the metric's names, and the number.
pub(super) type Point = (Vec<String>, f64);

/// What is shown at one moment.
#[derive(Default)]
pub(super) struct Page(Vec<MetricFamily>);

impl Page {
    /// Numbers that go up and down.
    pub(super) fn gauge(&mut self, metric: &Metric, points: impl IntoIterator<Item = Point>) {
        self.add(metric, MetricType::GAUGE, points, |sample, value| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            sample.set_gauge(gauge);
        });
    }

    /// Numbers that only go up while the process lives.
    pub(super) fn counter(&mut self, metric: &Metric, points: impl IntoIterator<Item = Point>) {
        self.add(metric, MetricType::COUNTER, points, |sample, value| {
            let mut counter = Counter::default();
            counter.set_value(value);
            sample.set_counter(counter);
        });
    }

    fn add(
        &mut self,
        metric: &Metric,
        kind: MetricType,
        points: impl IntoIterator<Item = Point>,
        set: impl Fn(&mut Sample, f64),
    ) {
        let samples: Vec<Sample> = points
            .into_iter()
            .map(|(values, number)| {
                let labels = metric.labels.iter().zip(values).map(|(name, value)| {
                    let mut label = LabelPair::default();
                    label.set_name((*name).to_owned());
                    label.set_value(value);
                    label
                });
                let mut sample = Sample::from_label(labels.collect());
                set(&mut sample, number);
                sample
            })
            .collect();
        // The format has no metric without samples.
        if samples.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(metric.name.to_owned());
        family.set_help(metric.help.to_owned());
        family.set_field_type(kind);
        family.set_metric(samples);
        self.0.push(family);
    }

    /// All that was added.
    pub(super) fn into_families(self) -> Vec<MetricFamily> {
        self.0
    }
}
