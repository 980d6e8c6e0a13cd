//! `smolvlm frames`: what of a video the model will see.

use std::path::Path;

use serde_json::{Value, json};
use smolvlm::checkpoint::hub;
use smolvlm::media::Image;
use smolvlm::media::image::write_png;
use smolvlm::media::source::MediaSource;
use smolvlm::preprocess::Settings;
use smolvlm::preprocess::geometry::Size;
use smolvlm::preprocess::resample::{Arithmetic, Filter, Resampler};
use smolvlm::{Compat, Error, Result, VideoView, processor_settings};

use crate::args::FramesArgs;
use crate::console::{self, Console};
use crate::sheet::Sheet;
use crate::{json, plan};

/// The widest sheet that is made, in pixels.
const MAX_SHEET_WIDTH: usize = 16_384;
/// The largest, in pixels: 192 MB while it is drawn.
const MAX_SHEET_PIXELS: u64 = 64_000_000;

pub(crate) fn frames(args: &FramesArgs) -> Result<()> {
    let console = Console::new(args.quiet, false);
    let settings = settings(args, &console)?;
    let media = plan::media_options(&args.media);
    let compat = args.compat.map_or_else(Compat::default, plan::compat);
    let source = MediaSource::parse(&args.video, None);
    let mut view = VideoView::open(&source, settings, &media, compat)?;
    if let Some(folder) = &args.each {
        let failed = |error: std::io::Error| {
            Error::input(format!("{}: cannot be made: {error}", folder.display())).caused_by(error)
        };
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    if args.out.is_some() || args.each.is_some() {
        draw(args, &mut view, &console)?;
    }
    if args.json { json::print(&describe(args, &view)) } else { console::print(&table(&view)) }
}

/// The settings of the model that is named, else of the published ones.
fn settings(args: &FramesArgs, console: &Console) -> Result<Settings> {
    let Some(model) = &args.model else {
        console.note("frames as the published 256M and 500M models take them; --model names another");
        return Settings::published();
    };
    let path = Path::new(model);
    if path.is_dir() {
        return processor_settings(path);
    }
    let mut download = console.download();
    let folder = hub::resolve_processor(model, &mut |progress| download.update(&progress))?;
    download.finish();
    processor_settings(&folder)
}

/// Decodes the frames once, for the sheet and for single files.
fn draw(args: &FramesArgs, view: &mut VideoView, console: &Console) -> Result<()> {
    let facts = view.facts().clone();
    let labels: Vec<String> =
        view.indices().iter().zip(view.times()).map(|(index, &time)| format!("#{index} {}", clock(time))).collect();
    let width = usize::from(args.frame_width);
    let columns = usize::from(args.columns).clamp(1, (MAX_SHEET_WIDTH / width).max(1));
    let height = (width * facts.height).div_ceil(facts.width.max(1)).clamp(1, 4 * width);
    check_sheet(labels.len(), columns, (width, height))?;
    let mut sheet = Sheet::new(&headline(view), labels.len(), columns, (width, height));
    let resampler = Resampler { filter: Filter::Bicubic, arithmetic: Arithmetic::Torch };
    let bar = console.bar(labels.len() as u64, "reading  {wide_bar:.cyan/dim} {pos}/{len} frames {eta:>4}");
    let mut place = 0;
    view.read(&mut |frame, tile| {
        sheet.place(&resampler.resize(&frame.image, Size::new(width, height)), &labels[place]);
        if let Some(folder) = &args.each {
            let name = format!("{place:03}-frame{:06}-{:.3}s.png", frame.index, frame.time);
            write_png(&Image { width: tile.size, height: tile.size, rgb: tile.rgb }, &folder.join(name))?;
        }
        place += 1;
        bar.inc(1);
        Ok(())
    })?;
    bar.finish_and_clear();
    args.out.as_ref().map_or(Ok(()), |out| write_png(&sheet.into_image(), out))
}

/// Refuses a sheet of more pixels than anyone would look at.
fn check_sheet(count: usize, columns: usize, cell: (usize, usize)) -> Result<()> {
    let pixels = count.div_ceil(columns) as u64 * columns as u64 * cell.0 as u64 * cell.1 as u64;
    if pixels <= MAX_SHEET_PIXELS {
        return Ok(());
    }
    Err(Error::usage(format!(
        "a sheet of {count} frames of {}×{} pixels would have over {MAX_SHEET_PIXELS} pixels: lower --frame-width or \
         --max-frames",
        cell.0, cell.1
    )))
}

/// Name and facts, a line each.
fn headline(view: &VideoView) -> Vec<String> {
    let facts = view.facts();
    let name =
        Path::new(&facts.name).file_name().map_or(facts.name.clone(), |name| name.to_string_lossy().into_owned());
    vec![
        name,
        format!("{} in {}, {}×{}", facts.codec, facts.container, facts.width, facts.height),
        format!("{} of {} frames, {}", view.indices().len(), facts.frame_count, clock(facts.duration)),
    ]
}

fn table(view: &VideoView) -> String {
    let facts = view.facts();
    let turned = if facts.rotation == 0 { String::new() } else { format!(", turned by {}°", facts.rotation) };
    let rate = if facts.constant_rate { "constant" } else { "variable" };
    let mut text = format!(
        "{}\n{} in {}, {}×{}{turned}\n{} frames in {:.3} s, {:.3} a second ({rate} rate)\n\n{} seen:\n   index    prompt      stream\n",
        facts.name,
        facts.codec,
        facts.container,
        facts.width,
        facts.height,
        facts.frame_count,
        facts.duration,
        facts.average_rate,
        view.indices().len()
    );
    for ((index, &time), stream) in view.indices().iter().zip(view.times()).zip(view.stream_times()) {
        text += &format!("{index:8}  {:>8}  {stream:8.3} s\n", clock(time));
    }
    text
}

fn describe(args: &FramesArgs, view: &VideoView) -> Value {
    let facts = view.facts();
    let frames = view.indices().iter().zip(view.times()).zip(view.stream_times());
    let frames: Vec<Value> = frames
        .map(|((index, time), stream)| {
            json!({ "index": index, "prompt_seconds": time, "prompt_time": clock(*time), "stream_seconds": stream })
        })
        .collect();
    json!({
        "video": facts.name, "codec": facts.codec, "container": facts.container, "width": facts.width,
        "height": facts.height, "rotation": facts.rotation, "frame_count": facts.frame_count,
        "average_rate": facts.average_rate, "constant_rate": facts.constant_rate, "duration": facts.duration,
        "sheet": args.out, "frames": frames,
    })
}

/// Minutes and seconds, as the prompt prints them; hours are minutes above 59.
fn clock(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    format!("{:02}:{:02}", whole / 60, whole % 60)
}
