//! The numbered menu of a lab class, each point made of lines of the language, which are shown. They
//! name the leader by a variable, so that what is recorded passes wherever somebody else leads.

use super::Shell;
use crate::output::line;

pub(super) fn print() -> anyhow::Result<()> {
    for point in [
        "1  restart the election: the leader's heartbeats come only every 20 s, until it steps down",
        "2  write values through the leader",
        "3  write a value to the leader only (replication failure)",
        "4  delete a follower's log file, and see it repaired",
        "   logs, status, why show what came of it; help lists everything else",
    ] {
        line(point)?;
    }
    Ok(())
}

impl Shell<'_, '_> {
    /// Shows a line and runs it.
    fn show(&mut self, text: &str) -> anyhow::Result<()> {
        line(format!("> {text}"))?;
        self.step(text)
    }

    pub(super) fn menu(&mut self, number: &str) -> anyhow::Result<()> {
        match number {
            "1" => self.restart_the_election(),
            "2" => self.write_values(),
            "3" => self.write_to_the_leader_only(),
            _ => self.delete_a_log(),
        }
    }

    fn restart_the_election(&mut self) -> anyhow::Result<()> {
        self.show("let L = leader")?;
        self.show("set $L heartbeat=20s until=stepdown")?;
        self.show("wait leader != $L within 15s")?;
        line(format!("{} leads now", self.leader()?))?;
        Ok(())
    }

    fn write_values(&mut self) -> anyhow::Result<()> {
        let values = self.ask("values, with spaces between them: ")?;
        if values.is_empty() {
            return Ok(());
        }
        self.show(&format!("submit {values} -> ok"))
    }

    fn write_to_the_leader_only(&mut self) -> anyhow::Result<()> {
        let value = self.ask("value: ")?;
        if value.is_empty() {
            return Ok(());
        }
        let leader = self.leader()?;
        let others = self.others(&leader)?;
        self.show("let L = leader")?;
        self.show("isolate $L")?;
        self.show(&format!("submit {value} via=$L nowait"))?;
        self.show(&format!("wait $L log ends *:{value} within 5s"))?;
        line(format!("{value} is only on {leader}; it is not committed"))?;
        let prompt = "[h]eal, [c]rash the leader, [e]lect a follower, [l]eave it so: ";
        match self.ask(prompt)?.chars().next() {
            Some('h') => {
                self.show("heal")?;
                self.show("settle")
            }
            Some('c') => {
                self.show("crash $L")?;
                self.show("heal")?;
                self.show("wait leader != $L within 15s")?;
                line(format!("restart {leader} shows what becomes of {value}"))?;
                Ok(())
            }
            Some('e') => {
                self.show(&format!("elect {} win", others[0]))?;
                line(format!("heal shows what becomes of {value}"))?;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn delete_a_log(&mut self) -> anyhow::Result<()> {
        let leader = self.leader()?;
        let others = self.others(&leader)?;
        let asked = self.ask(&format!("whose log [{}]: ", others[0]))?;
        let node = if asked.is_empty() { others[0].clone() } else { asked };
        self.show(&format!("crash {node}"))?;
        self.show(&format!("wipe {node} log"))?;
        self.show(&format!("restart {node}"))?;
        self.show(&format!("wait {node} role=follower within 15s"))?;
        self.show("settle")?;
        line(format!("{node} holds everything again"))?;
        Ok(())
    }
}
