//! `smolvlm chat`: a conversation in the terminal.

use std::io::{BufRead, IsTerminal, Write};

use smolvlm::messages::{Content, Messages};
use smolvlm::{Error, ErrorKind, GenerateOptions, Reply, Result, SmolVlm};

use super::run::{report, stream};
use crate::args::ChatArgs;
use crate::console::{self, Console};
use crate::{json, plan};

const HELP: &str = "\
/image F   attach a picture to the next message (path or URL)
/video F   attach a video to the next message
/files     list what is attached
/undo      take the last exchange back
/reset     start over
/quit      leave (or end of input)
Any other line is a message. Two slashes begin a message that starts with one.";

pub(crate) fn chat(args: &ChatArgs) -> Result<()> {
    let console = Console::new(args.model.quiet, args.model.verbose);
    let mut model = plan::load(&args.model, Some(&args.media), &console)?;
    let options = plan::generate_options(&model, &args.generate);
    options.validate()?;
    console.note("Write a message, or /help. /image F and /video F attach files.");
    let mut chat = Chat::new(args.system.as_deref());
    let answer = if args.generate.json { answer_as_json } else { answer_as_text };
    let mut lines = std::io::stdin().lock().lines();
    loop {
        prompt();
        let Some(line) = lines.next() else { return Ok(()) };
        let line = line.map_err(|error| Error::input("standard input cannot be read").caused_by(error))?;
        match Input::parse(&line) {
            Input::Quit => return Ok(()),
            Input::Nothing => {}
            Input::Message(text) => {
                let taken_back = chat.say(text, |asked| answer(&mut model, asked, &options, console))?;
                taken_back.into_iter().for_each(report_error);
            }
            Input::Command(command, rest) => console.note(&chat.command(command, rest)),
        }
    }
}

/// Prints the reply as it comes.
fn answer_as_text(model: &mut SmolVlm, asked: &Messages, options: &GenerateOptions, console: Console) -> Result<Reply> {
    let reply = stream(model, asked, options)?;
    report(console, &reply, options);
    Ok(reply)
}

/// Prints the reply as one line of JSON.
fn answer_as_json(model: &mut SmolVlm, asked: &Messages, options: &GenerateOptions, _: Console) -> Result<Reply> {
    let reply = model.generate(asked, options)?;
    console::print(&format!("{}\n", json::reply(model, &reply)))?;
    Ok(reply)
}

fn report_error(error: Error) {
    let _ = writeln!(std::io::stderr(), "error: {error}\n(the message and its files were taken back)");
}

/// Shown only to people.
fn prompt() {
    if std::io::stdin().is_terminal() {
        let _ = write!(std::io::stderr(), "> ");
    }
}

/// A line, understood.
#[derive(Debug, PartialEq, Eq)]
enum Input<'a> {
    Nothing,
    Quit,
    Message(&'a str),
    Command(&'a str, &'a str),
}

impl<'a> Input<'a> {
    fn parse(line: &'a str) -> Self {
        let line = line.trim();
        match line.strip_prefix('/') {
            _ if line.is_empty() => Self::Nothing,
            Some("quit" | "exit") => Self::Quit,
            Some(message) if message.starts_with('/') => Self::Message(message),
            Some(command) => {
                let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
                Self::Command(name, rest.trim())
            }
            None => Self::Message(line),
        }
    }
}

/// The conversation so far and what is attached to the next message.
struct Chat {
    messages: Messages,
    /// Messages that /reset keeps.
    kept: usize,
    attached: Vec<Content>,
}

impl Chat {
    fn new(system: Option<&str>) -> Self {
        let messages = match system {
            Some(system) => Messages::new().system(system),
            None => Messages::new(),
        };
        Self { kept: messages.0.len(), messages, attached: Vec::new() }
    }

    /// Adds a message and what `answer` says to it. A message that cannot be answered is taken back, so that the
    /// conversation can go on; its error is returned.
    fn say(&mut self, text: &str, answer: impl FnOnce(&Messages) -> Result<Reply>) -> Result<Option<Error>> {
        let mut blocks = std::mem::take(&mut self.attached);
        blocks.push(Content::text(text));
        let asked = self.messages.clone().user(blocks);
        match answer(&asked) {
            Ok(reply) => {
                self.messages = asked.assistant(reply.text.trim());
                Ok(None)
            }
            Err(error) if error.kind() == ErrorKind::Internal => Err(error),
            Err(error) => Ok(Some(error)),
        }
    }

    /// Obeys a command; says what happened.
    fn command(&mut self, command: &str, rest: &str) -> String {
        match command {
            "image" | "video" if rest.is_empty() => format!("/{command} needs a path or URL"),
            "image" => self.attach(Content::image(rest)),
            "video" => self.attach(Content::video(rest)),
            "files" => self.files(),
            "undo" => {
                let keep = self.messages.0.len().saturating_sub(2).max(self.kept);
                let said = if keep < self.messages.0.len() { "the last exchange is" } else { "there is nothing to be" };
                self.messages.0.truncate(keep);
                format!("{said} taken back")
            }
            "reset" => {
                self.messages.0.truncate(self.kept);
                self.attached.clear();
                "starting over".to_owned()
            }
            "help" => HELP.to_owned(),
            other => format!("/{other} is not a command; /help lists them"),
        }
    }

    fn attach(&mut self, content: Content) -> String {
        self.attached.push(content);
        self.files()
    }

    fn files(&self) -> String {
        let name = |content: &Content| match content {
            Content::Image(source) => format!("picture {}", source.name()),
            Content::Video(source) => format!("video {}", source.name()),
            Content::Text(text) => text.clone(),
        };
        let names: Vec<String> = self.attached.iter().map(name).collect();
        if names.is_empty() { "nothing is attached".to_owned() } else { format!("attached: {}", names.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_unless_they_begin_with_one_slash() {
        assert_eq!(Input::parse(" hello "), Input::Message("hello"));
        assert_eq!(Input::parse("//etc is a folder"), Input::Message("/etc is a folder"));
        assert_eq!(Input::parse("/image a b.png"), Input::Command("image", "a b.png"));
        assert_eq!(Input::parse("/quit"), Input::Quit);
        assert_eq!(Input::parse("  "), Input::Nothing);
    }

    #[test]
    fn undo_and_reset_keep_the_system_message() {
        let mut chat = Chat::new(Some("Be brief."));
        chat.messages = chat.messages.clone().user("a").assistant("b");
        chat.command("undo", "");
        chat.command("undo", "");
        assert_eq!(chat.messages.0.len(), 1);
        chat.command("image", "x.png");
        chat.command("reset", "");
        assert_eq!((chat.messages.0.len(), chat.attached.len()), (1, 0));
    }
}
