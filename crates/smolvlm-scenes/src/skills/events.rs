//! Things appear, vanish, change colour, collide: in which order, and when.

use super::Draft;
use super::clip::{Actor, film};
use crate::check::Class;
use crate::dice::Dice;
use crate::draw::Format;
use crate::held::Split;
use crate::mixture::Skill;
use crate::phrase::{Asked, Wordings, clock, yes_no};
use crate::sample::{Clip, Turn};
use crate::scene::{Grid, Object, vary};
use crate::vocabulary::{Colour, Kind};

const FIRST: Wordings = &[
    ("What happens first?", "{key}"),
    ("What is the first thing that happens?", "{key}"),
    ("Which event comes first?", "First {key}."),
];
const LAST: Wordings = &[
    ("What happens last?", "{key}"),
    ("What is the last thing that happens?", "{key}"),
    ("Which event comes last?", "Last {key}."),
];
const WHICH_FIRST: Wordings = &[
    ("Which {does} first, the {a} or the {b}?", "the {key}"),
    ("The {a} and the {b}: which one {does} first?", "the {key}"),
    ("What {does} earlier, the {a} or the {b}?", "the {key}"),
];
const IS_BEFORE: Wordings = &[
    ("Does the {a} {do} before the {b}?", "{key}"),
    ("Does the {a} {do} earlier than the {b}? Answer yes or no.", "{key}"),
];
const WHEN: Wordings = &[
    ("When does the {a} {do}?", "{key}"),
    ("At what time does the {a} {do}?", "{key}"),
    ("Give the time at which the {a} {does}.", "at {key}"),
];
const WHEN_COLLIDE: Wordings = &[
    ("When do the {a} and the {b} collide?", "{key}"),
    ("When does the {a} hit the {b}?", "{key}"),
    ("At what time do the two objects touch?", "at {key}"),
];
const TURNS_INTO: Wordings = &[
    ("What colour does the {a} turn?", "{key}"),
    ("Which colour does the {a} have in the end?", "{key}"),
    ("The {a} changes its colour. To what?", "to {key}"),
];
const WAS: Wordings =
    &[("What colour is the {a} at first?", "{key}"), ("Which colour does the {a} have in the beginning?", "{key}")];
const WHAT_HAPPENS: Wordings = &[
    ("Describe what happens, with times.", "{story}"),
    ("What happens in the clip, and when?", "{story}"),
    ("List the events of this video with their times.", "{story}"),
    ("Give a caption of the video with timestamps.", "{story}"),
];
const HIGHLIGHT: Wordings = &[
    ("Highlight: {a}. Does the clip contain it? Answer yes or no.", "{key}"),
    ("Is there a moment in the video when {a}?", "{key}"),
    ("We look for scenes in which {a}. Is this one?", "{key}"),
    ("Does it happen in this clip that {a}?", "{key}"),
];

/// What an actor does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Appear,
    Vanish,
    Turn(Colour),
}

impl Deed {
    fn does(self) -> String {
        match self {
            Self::Appear => "appears".to_owned(),
            Self::Vanish => "vanishes".to_owned(),
            Self::Turn(colour) => format!("turns {}", colour.word()),
        }
    }

    /// Without the colour that it turns.
    fn verb(self) -> (&'static str, &'static str) {
        match self {
            Self::Appear => ("appear", "appears"),
            Self::Vanish => ("vanish", "vanishes"),
            Self::Turn(_) => ("change colour", "changes colour"),
        }
    }

    /// One of three; for `Turn` a colour that the shape may have.
    fn draw(dice: &mut Dice, split: Split, which: usize, kind: Kind) -> Self {
        match which {
            0 => Self::Appear,
            1 => Self::Vanish,
            _ => loop {
                let turned = Kind { colour: *dice.pick(Colour::ALL), ..kind };
                if turned != kind && (split == Split::Held || !turned.is_held()) {
                    return Self::Turn(turned.colour);
                }
            },
        }
    }
}

/// A deed and when it is done.
struct Event {
    kind: Kind,
    deed: Deed,
    frame: usize,
}

/// A clip with what happens in it, in order.
struct Story {
    clip: Clip,
    events: Vec<Event>,
}

impl Story {
    fn time(&self, event: &Event) -> String {
        clock(self.clip.times[event.frame])
    }
}

pub(super) fn draft(skill: Skill, dice: &mut Dice, split: Split) -> Draft {
    match skill {
        Skill::Order => order(dice, split),
        Skill::Time if dice.chance(0.25) => collision_time(dice, split),
        Skill::Time => time(dice, split),
        Skill::Change => change(dice, split),
        Skill::ClipCaption => caption(dice, split),
        _ => highlight(dice, split),
    }
}

/// Objects of different shapes in cells; each of the first ones does one of `deeds`, at different times in any order.
fn story(dice: &mut Dice, split: Split, deeds: &[usize], bystanders: usize, frames: usize) -> Story {
    let grid = Grid::of_nine(Format::TILE);
    let kinds = Kind::draw_many(dice, split, deeds.len() + bystanders, true);
    let mut cells = grid.occupy(dice, split, kinds.len());
    dice.shuffle(&mut cells);
    let times: Vec<usize> = dice.distinct(deeds.len(), frames - 1).into_iter().map(|at| at + 1).collect();
    let (mut actors, mut events) = (Vec::new(), Vec::new());
    for (index, (&kind, cell)) in kinds.iter().zip(cells).enumerate() {
        let object = Object::place(dice, &grid, cell, kind, None);
        let mut actor = Actor::still(kind, object.paint, object.radius, object.degrees, object.at);
        if let (Some(&which), Some(&frame)) = (deeds.get(index), times.get(index)) {
            let deed = Deed::draw(dice, split, which, kind);
            match deed {
                Deed::Appear => actor.from = frame,
                Deed::Vanish => actor.until = frame,
                Deed::Turn(colour) => actor.repaint = Some((frame, vary(dice, Kind { colour, ..kind }))),
            }
            events.push(Event { kind, deed, frame });
        }
        actors.push(actor);
    }
    events.sort_by_key(|event| event.frame);
    Story { clip: film(dice, &actors, frames), events }
}

fn ask(
    dice: &mut Dice,
    skill: Skill,
    class: Class,
    key: &str,
    chance: f32,
    slots: &[(&str, &str)],
    wordings: Wordings,
) -> Turn {
    Asked { skill, class, key, chance, slots }.word(dice, wordings)
}

fn order(dice: &mut Dice, split: Split) -> Draft {
    let (frames, form) = (dice.whole(5, 9), dice.below(4));
    let count = dice.whole(2, 3);
    let same = dice.below(3);
    let deeds: Vec<usize> = (0..count).map(|_| if form < 2 { dice.below(3) } else { same }).collect();
    let bystanders = dice.below(2);
    let story = story(dice, split, &deeds, bystanders, frames);
    let (first, last) = (&story.events[0], &story.events[count - 1]);
    let event = |event: &Event| format!("the {} {}", event.kind.shape.word(), event.deed.does());
    let turn = match form {
        0 => ask(dice, Skill::Order, Class::Scene, &event(first), 0.05, &[], FIRST),
        1 => ask(dice, Skill::Order, Class::Scene, &event(last), 0.05, &[], LAST),
        _ => {
            let first_named = dice.coin();
            let (a, b) = if first_named { (first, last) } else { (last, first) };
            let (verb, does) = first.deed.verb();
            let slots = [("{a}", a.kind.shape.word()), ("{b}", b.kind.shape.word()), ("{does}", does), ("{do}", verb)];
            let key = if form == 2 { first.kind.shape.word() } else { yes_no(first_named) };
            let class = if form == 2 { Class::Object } else { Class::YesNo };
            let wordings = if form == 2 { WHICH_FIRST } else { IS_BEFORE };
            ask(dice, Skill::Order, class, key, 0.5, &slots, wordings)
        }
    };
    Draft::clip(story.clip, vec![turn])
}

/// When one thing happens, among others.
fn time(dice: &mut Dice, split: Split) -> Draft {
    let frames = dice.whole(5, 10);
    let deeds: Vec<usize> = (0..dice.whole(1, 3)).map(|_| dice.below(3)).collect();
    let bystanders = dice.below(2);
    let story = story(dice, split, &deeds, bystanders, frames);
    let event = dice.pick(&story.events);
    let (verb, does) = event.deed.verb();
    let words = if dice.coin() { event.kind.words() } else { event.kind.shape.word().to_owned() };
    let slots = [("{a}", words.as_str()), ("{does}", does), ("{do}", verb)];
    // Any frame but the first.
    let chance = 1.0 / (frames - 1) as f32;
    let turn = ask(dice, Skill::Time, Class::Time, &story.time(event), chance, &slots, WHEN);
    Draft::clip(story.clip, vec![turn])
}

fn change(dice: &mut Dice, split: Split) -> Draft {
    let frames = dice.whole(4, 8);
    let bystanders = dice.below(3);
    let story = story(dice, split, &[2], bystanders, frames);
    let event = &story.events[0];
    let after = if let Deed::Turn(colour) = event.deed { colour } else { event.kind.colour };
    let slots = [("{a}", event.kind.shape.word())];
    let (key, wordings) = if dice.chance(0.6) { (after, TURNS_INTO) } else { (event.kind.colour, WAS) };
    let turn = ask(dice, Skill::Change, Class::Colour, key.word(), 1.0 / 8.0, &slots, wordings);
    Draft::clip(story.clip, vec![turn])
}

fn caption(dice: &mut Dice, split: Split) -> Draft {
    let (clip, sentences): (Clip, Vec<String>) = if dice.chance(0.25) {
        let meeting = meeting(dice, split, true);
        let [a, b] = meeting.kinds.map(Kind::words);
        let time = clock(meeting.clip.times[meeting.frame]);
        (meeting.clip, vec![format!("At {time} the {a} and the {b} collide.")])
    } else {
        let frames = dice.whole(5, 10);
        let deeds: Vec<usize> = (0..dice.whole(1, 3)).map(|_| dice.below(3)).collect();
        let bystanders = dice.below(2);
        let story = story(dice, split, &deeds, bystanders, frames);
        let sentence =
            |event: &Event| format!("At {} the {} {}.", story.time(event), event.kind.words(), event.deed.does());
        let sentences = story.events.iter().map(sentence).collect();
        (story.clip, sentences)
    };
    let text = sentences.join(" ");
    let turn = ask(dice, Skill::ClipCaption, Class::Scene, &text, 0.01, &[("{story}", &text)], WHAT_HAPPENS);
    Draft::clip(clip, vec![turn])
}

/// Two objects on their way towards each other.
struct Meeting {
    clip: Clip,
    /// That which comes from the left or from above, and the other.
    kinds: [Kind; 2],
    /// The frame in which they touch or pass.
    frame: usize,
}

/// They touch and go back, or pass each other side by side.
fn meeting(dice: &mut Dice, split: Split, collide: bool) -> Meeting {
    let frames = dice.whole(5, 9);
    let frame = dice.whole(2, frames - 2);
    let drawn = Kind::draw_many(dice, split, 2, true);
    let kinds = [drawn[0], drawn[1]];
    let (down, radius) = (dice.coin(), dice.between(10.0, 15.0));
    let apart = if collide { 0.0 } else { 17.0 };
    let (across, meet) = (dice.between(40.0, 88.0), dice.between(52.0, 76.0));
    let point = |along: f32, shift: f32| if down { (across + shift, along) } else { (along, across + shift) };
    let actors: Vec<Actor> = [-1.0f32, 1.0]
        .iter()
        .zip(kinds)
        .map(|(&side, kind)| {
            let (paint, degrees) = (vary(dice, kind), dice.between(-8.0, 8.0));
            let start = 64.0 + side * 48.0;
            let mut actor = Actor::still(kind, paint, radius, degrees, (0.0, 0.0));
            let shift = side * apart;
            // Middles as far apart as the shapes reach on average.
            let touch = meet + side * 0.95 * radius;
            actor.path = if collide {
                vec![(0, point(start, shift)), (frame, point(touch, shift)), (frames - 1, point(start, shift))]
            } else {
                vec![(0, point(start, shift)), (frame, point(meet, shift)), (frames - 1, point(128.0 - start, shift))]
            };
            actor
        })
        .collect();
    Meeting { clip: film(dice, &actors, frames), kinds, frame }
}

fn collision_time(dice: &mut Dice, split: Split) -> Draft {
    let meeting = meeting(dice, split, true);
    let mut named = meeting.kinds.map(|kind| kind.shape.word());
    dice.shuffle(&mut named);
    let slots = [("{a}", named[0]), ("{b}", named[1])];
    let key = clock(meeting.clip.times[meeting.frame]);
    let chance = 1.0 / (meeting.clip.frames.len() - 3) as f32;
    let turn = ask(dice, Skill::Time, Class::Time, &key, chance, &slots, WHEN_COLLIDE);
    Draft::clip(meeting.clip, vec![turn])
}

/// One of five things happens; the highlight is that, or another.
fn highlight(dice: &mut Dice, split: Split) -> Draft {
    const HIGHLIGHTS: [&str; 5] = [
        "something appears",
        "something vanishes",
        "something changes its colour",
        "two objects collide",
        "two objects pass each other without touching",
    ];
    let shown = dice.below(HIGHLIGHTS.len());
    let clip = if shown < 3 {
        let (bystanders, frames) = (dice.whole(1, 2), dice.whole(4, 8));
        story(dice, split, &[shown], bystanders, frames).clip
    } else {
        meeting(dice, split, shown == 3).clip
    };
    let yes = dice.coin();
    let asked = if yes { shown } else { (shown + dice.whole(1, HIGHLIGHTS.len() - 1)) % HIGHLIGHTS.len() };
    let slots = [("{a}", HIGHLIGHTS[asked])];
    let turn = ask(dice, Skill::Highlight, Class::YesNo, yes_no(yes), 0.5, &slots, HIGHLIGHT);
    Draft::clip(clip, vec![turn])
}
