//! Building one frame. At 200x60 it may take 2 ms at most.

#[path = "../tests/it/fixture.rs"]
mod fixture;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use tidegate::tui::{UiState, draw_into};

fn main() {
    divan::main();
}

#[divan::bench(args = [(80, 24), (120, 36), (200, 60), (300, 90)])]
fn frame(bencher: divan::Bencher<'_, '_>, (width, height): (u16, u16)) {
    let (snapshot, ui) = (fixture::canary(), UiState::default());
    let area = Rect::new(0, 0, width, height);
    bencher.bench_local(|| {
        let mut buf = Buffer::empty(area);
        draw_into(&mut buf, area, divan::black_box(&snapshot), &ui);
        buf
    });
}

#[divan::bench]
fn nothing_known_yet(bencher: divan::Bencher<'_, '_>) {
    let (snapshots, ui) = ([fixture::early(), fixture::copying()], UiState::default());
    let area = Rect::new(0, 0, 200, 60);
    bencher.bench_local(|| {
        let mut buf = Buffer::empty(area);
        for snapshot in &snapshots {
            draw_into(&mut buf, area, divan::black_box(snapshot), &ui);
        }
        buf
    });
}
