//! Words and numbers to be read.

use std::sync::LazyLock;

use crate::check::AROUND_TEXT;
use crate::dice::Dice;
use crate::held::{self, Split};

/// Plain English words of two to six letters.
const WORDS: &str = "
    am an as at be by do go he if in me my no of on or ox pi so to up us we
    act add age air ant apt arc ark arm art ash axe bag bat bay bed bee big bit boa bog bow box bud bug bun bus cab cap car cat
    cod cog cow cry cub cue cup dam day den dew dig dip dog dot dry dye ear eel egg elf elk elm emu era fan fig fin fir fix fly
    fog fox fun fur gap gas gem gnu gum gut ham hat hay hen hip hop hub hue hut ice imp ink inn ivy jam jar jaw jet jig job jog
    jug key kit lab lap law leg lid lip log map mat mix mop mud mug nap net nib nod nut oak oar oat oil orb ore owl pad pan paw
    pea pen pet pie pig pin pit pod pot pup rag ram rat ray rib rim rod row rug rum rye sap saw sea set sip sky sob sod son spa
    sum sun tab tag tan tap tar tax tea ten tin tip toe ton top toy tub tug urn van vat vet vow wax web wig win wok yak yam yap
    yew zip zoo
    acid acre arch army atom aunt axle bake bald ball band bark barn bath bead beak beam bean bear beef bell belt bend bike bird
    boat bolt bone book boot bowl brim bulb bush cage cake calf camp cane cape card cart cave chef chin city clam claw clay club
    coal coat code coin cone cook cork corn crab crow cube dawn deck deer desk dice dish dock doll door dove drum duck dune dusk
    dust echo edge envy epic exam exit face fact fair farm fern film fire fish flag flea flux foam fork fort frog fuel gate gift
    glue goat gold golf gulf hail hall hand harp hawk herb hero hill hive hook horn hose huge idea inch iris iron jade jazz jeep
    joke jump junk keel kelp kilo king kite kiwi knee knot lace lake lamb lamp lark lava lawn leaf lens lily limb lime lion loaf
    lock loop luck lung lynx maze menu mice milk mill mint mole moss moth myth nail navy neck nest node nose note oath oboe onyx
    oven oxen palm park path peak pear pine pipe plug plum poem poet pond pony pool quay quiz raft rain reef rice road rock rope
    rose ruby rust sage sail salt sand seal seed ship shoe silk sink snow soap sock sofa soup surf swan tail tank tape tent tide
    tile toad tomb tree tuba tuna twig unit vase veil vest view vine void volt wall wand wasp wave whey wing wolf wood wool yard
    yarn yoga yolk zero zinc zone zoom
    alarm album alley amber angel angle apple apron arena atlas attic azure bacon badge bagel baker banjo basil beach berry
    birch blaze block bloom board brick bride brook broom brush cabin cable camel candy canoe cargo cedar chain chair chalk chess
    chief child civic clerk cliff clock cloud clown coach coral couch crane cream crown daisy dance depot diner donut drain dream
    dress drill eagle earth easel elbow ember equal extra fable fairy fence ferry field flame flock flour flute focus forge frost
    fruit ghost giant glass globe glove goose grape grass guide habit harbor hedge honey horse hotel igloo image index ivory
    jelly jewel joint judge juice kayak kiosk koala label lemon level lilac llama lobby lunar lunch maple march medal melon metal
    model money mouse mouth movie music night noble north novel nurse oasis ocean olive onion opera otter oxide panda paper
    parka party pasta peach pearl pedal piano pilot pixel pizza plane plate plaza poppy prize proud queen quest quick quilt quiet
    radar radio ranch raven river robin robot rocky royal rugby salad scarf scout shark sheep shelf shirt skate skill sloth
    smile snail snake solar spark spice spoon squid stamp steam stone storm sugar swamp swift sword syrup table tempo thief
    thorn tiger toast torch towel tower train truck tulip uncle union unity urban valve vapor video viola visit vivid voice
    wagon waltz water whale wheat wheel widow world wrist xenon yacht young youth zebra
    almond animal anchor arctic autumn bakery bamboo banana barley basket beaver blanket bottle branch breeze bridge bronze
    bubble bucket butter button cactus camera candle canvas canyon carbon carpet carrot castle cattle celery cherry cinema circus
    clover cobalt coffee comedy copper cotton cousin coyote crayon cruise crystal dagger dancer desert dinner doctor dragon eleven
    engine enzyme fabric falcon family father feather fiddle finger flower forest fossil freeze galaxy garage garden garlic
    ginger glider goblet gopher gravel guitar hammer harbor hazard helmet hermit hockey honest humble hunter icicle insect island
    jacket jaguar jigsaw jockey jungle kernel kettle kidney kitten knight ladder lagoon launch laurel lawyer leader lizard
    locket lumber magnet mammal mantle marble market meadow mellow mentor method mirror mobile monkey mosaic mother muffin museum
    mustard napkin nature needle nickel noodle nutmeg office orange orchid oxygen oyster paddle palace parrot pastry peanut pebble
    pencil pepper petrol pickle pigeon pillow pirate planet plasma plenty pocket polish potato powder prince puzzle python quartz
    rabbit racket radish record ribbon rocket saddle safari salmon school season shadow shield signal silver simple sister sketch
    smooth socket spider spiral spring statue stereo stream studio summer sunset switch symbol tablet teapot temple tennis thread
    throne ticket timber tomato tongue travel tunnel turtle velvet violet violin visual volume walnut walrus window winter wizard
    wonder yellow yogurt zigzag";

/// The longest word that is drawn.
pub(crate) const MOST_LETTERS: usize = 6;

/// Groups of letters that made-up words do not have: nobody wants to read them on a screen.
const UNWELCOME: &[&str] =
    &["ASS", "COK", "CUM", "CUN", "DIK", "FAG", "FUC", "FUK", "GUN", "KIL", "NAZ", "NIG", "RAP", "SEX", "TIT", "WOG"];

/// The words of training and those of evaluation, in capitals.
static LISTS: LazyLock<[Vec<String>; 2]> = LazyLock::new(|| {
    let all = || WORDS.split_whitespace().filter(|word| (2..=MOST_LETTERS).contains(&word.len()));
    let usable = || all().filter(|word| !AROUND_TEXT.contains(word)).map(str::to_uppercase);
    let (held, trained) = usable().partition(|word| held::word(word));
    [trained, held]
});

fn list(split: Split) -> &'static [String] {
    &LISTS[usize::from(split == Split::Held)]
}

/// A word in capitals of `shortest` to `longest` letters: two in three are English, the others made up.
pub(crate) fn word(dice: &mut Dice, split: Split, shortest: usize, longest: usize) -> String {
    let letters = dice.whole(shortest, longest);
    // English has one two-letter word in ten held, which may be none at all.
    if letters > 2 && dice.chance(0.67) {
        loop {
            let word = dice.pick(list(split));
            if (shortest..=longest).contains(&word.len()) {
                return word.clone();
            }
        }
    }
    loop {
        let word = made_up(dice, letters);
        let is_welcome = !UNWELCOME.iter().any(|group| word.contains(group));
        if is_welcome && split.takes(held::word(&word)) && !AROUND_TEXT.contains(&word.to_lowercase().as_str()) {
            return word;
        }
    }
}

/// Letters of which about every second is a vowel, so that all pairs of letters occur.
fn made_up(dice: &mut Dice, letters: usize) -> String {
    const VOWELS: &[u8] = b"AEIOUY";
    const CONSONANTS: &[u8] = b"BCDFGHJKLMNPQRSTVWXZ";
    let mut vowel = dice.coin();
    let letters = (0..letters).map(|_| {
        let letter = char::from(*dice.pick(if vowel { VOWELS } else { CONSONANTS }));
        vowel = if dice.chance(0.8) { !vowel } else { vowel };
        letter
    });
    letters.collect()
}

/// A number of one to four digits, each length as likely (two to four in evaluation).
pub(crate) fn number(dice: &mut Dice, split: Split) -> usize {
    loop {
        let digits = dice.whole(if split == Split::Held { 2 } else { 1 }, 4) as u32;
        let number = dice.whole(if digits == 1 { 0 } else { 10usize.pow(digits - 1) }, 10usize.pow(digits) - 1);
        if split.takes(held::number(number)) {
            return number;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_splits_have_words_of_three_to_six_letters() {
        for (split, least) in [(Split::Train, 100), (Split::Held, 10)] {
            for letters in 3..=MOST_LETTERS {
                let count = list(split).iter().filter(|word| word.len() == letters).count();
                assert!(count >= least, "{split:?}: {count} words of {letters} letters");
            }
        }
    }

    #[test]
    fn words_have_the_letters_asked_for_and_keep_to_their_split() {
        let mut dice = Dice::new(11, 0);
        for split in [Split::Train, Split::Held] {
            for _ in 0..2000 {
                let word = word(&mut dice, split, 2, 6);
                assert!((2..=6).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_uppercase()), "{word}");
                assert_eq!(held::word(&word), split == Split::Held, "{word}");
                let number = number(&mut dice, split);
                assert!(number <= 9999 && held::number(number) == (split == Split::Held), "{number}");
            }
        }
    }
}
