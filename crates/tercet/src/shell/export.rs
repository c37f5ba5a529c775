//! `export`: what happened since the shell began, as a trace or a diagram.

use std::fs;

use anyhow::Context as _;
use tercet_lab::diagram::Format;

use super::Shell;
use crate::output::Failure;

impl Shell<'_> {
    pub(super) fn export(&mut self, format: &str, file: Option<&str>) -> anyhow::Result<()> {
        let title = self.world.header();
        let nodes = self.world.nodes();
        let (text, extension) = if format == "trace" {
            (self.voice.with_trace(|trace| trace.text("a shell", nodes)), "trace")
        } else {
            let format = Format::from_name(format).ok_or_else(|| {
                Failure::new(2, format!("export {format}: it is trace, svg, mermaid or shiviz"))
            })?;
            let diagram = self.voice.with_trace(|trace| trace.diagram(&title, nodes));
            (diagram.write(format), format.extension())
        };
        let default = format!("tercet.{extension}");
        let file = file.unwrap_or(&default);
        fs::write(file, text).with_context(|| format!("{file} cannot be written"))?;
        self.voice.say(format!("{file}: what happened so far, as {format}"))
    }
}
