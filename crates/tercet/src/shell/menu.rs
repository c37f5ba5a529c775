//! The numbered menu of a lab class, each point made of lines of the language, which are shown. They
//! name the leader by a variable, so that what is recorded passes wherever somebody else leads.

use super::Shell;

const MENU: [&str; 5] = [
    "1  restart the election: the leader's heartbeats come only every 20 s, until it steps down",
    "2  write values through the leader",
    "3  write a value to the leader only (replication failure)",
    "4  delete a follower's log file, and see it repaired",
    "   logs, status, why show what came of it; help lists everything else",
];

impl Shell<'_> {
    pub(super) fn print_menu(&self) -> anyhow::Result<()> {
        MENU.iter().try_for_each(|point| self.voice.say(*point))
    }

    /// Shows a line and runs it.
    fn show(&mut self, text: &str) -> anyhow::Result<()> {
        self.voice.say(format!("> {text}"))?;
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
        let leader = self.leader()?;
        self.voice.say(format!("{leader} leads now"))
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
        self.voice.say(format!("{value} is only on {leader}; it is not committed"))?;
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
                self.voice.say(format!("restart {leader} shows what becomes of {value}"))
            }
            Some('e') => {
                self.show(&format!("elect {} win", others[0]))?;
                self.voice.say(format!("heal shows what becomes of {value}"))
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
        self.voice.say(format!("{node} holds everything again"))
    }
}
