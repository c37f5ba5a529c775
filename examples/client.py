#!/usr/bin/env python3
"""A client for a Tercet cluster, with nothing but Python's standard library.

    client.py [NODE...]                     a menu
    client.py [NODE...] submit VALUE...     append values, in this order
    client.py [NODE...] status              how every node sees the cluster
    client.py [NODE...] log                 all records, from the first on

A NODE is the client address of a node, such as 127.0.0.1:7101; all nodes should be named. If none
is, they are those of `tercet dev`: 127.0.0.1:7101, :7102 and :7103. Any node takes any call; this
client asks the next one if one is down.

Exit codes: 0 done; 1 refused, or no node answers; 2 the arguments are wrong.
"""

import http.client
import os
import sys
import time
import uuid
import xmlrpc.client
from xml.parsers.expat import ExpatError

NODES = ["127.0.0.1:7101", "127.0.0.1:7102", "127.0.0.1:7103"]
COMMANDS = ("submit", "status", "log")
# A node answers within 10 s, if only to say that it could not do it: this is longer.
TIMEOUT_S = 20
# Fault codes (docs/xml-rpc.md). NO_LEADER, LEADERSHIP_LOST, DEADLINE, OVERLOADED, QUARANTINED:
# another node, or the same one later, may do what this one could not.
TRY_ANOTHER = {2, 4, 5, 6, 14}
UNKNOWN_METHOD = -32601

MENU = """
 1  restart the election: the leader's heartbeat interval becomes 20 s
 2  write values, through the leader
 3  write a value to the leader only: the replication fails
 4  delete a node's log file
 5  status
 6  read the log
 0  quit"""


class Failed(Exception):
    """What was asked could not be done; the text says why."""


class Unreachable(Failed):
    """A node gave no answer. Whether it did what it was asked is not known."""


class Transport(xmlrpc.client.Transport):
    """The standard one, which waits for ever, with a limit."""

    def make_connection(self, host):
        connection = super().make_connection(host)
        connection.timeout = TIMEOUT_S
        return connection


class Cluster:
    """The nodes, by their addresses."""

    def __init__(self, nodes):
        self.nodes = [node.removeprefix("http://").rstrip("/") for node in nodes]

    def ask(self, node, method, *params):
        """Calls a method of one node. A refusal comes as an xmlrpc.client.Fault."""
        proxy = xmlrpc.client.ServerProxy(f"http://{node}", transport=Transport())
        try:
            with proxy:
                return getattr(proxy, method)(*params)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{node} does not answer: {error}") from error
        except xmlrpc.client.ProtocolError as error:
            raise Unreachable(f"{node} refuses: HTTP {error.errcode} {error.errmsg}") from error
        except (ExpatError, xmlrpc.client.ResponseError) as error:
            raise Unreachable(f"{node} does not speak XML-RPC: {error}") from error
        except UnicodeEncodeError as error:
            raise Failed(f"this cannot be sent as text: {error}") from error

    def ask_any(self, method, *params, first=None):
        """Calls a method of the first node that can do it, beginning with the one given."""
        problems = []
        for node in sorted(self.nodes, key=lambda node: node != first):
            try:
                return self.ask(node, method, *params)
            except Unreachable as error:
                problems.append(str(error))
            except xmlrpc.client.Fault as fault:
                if fault.faultCode not in TRY_ANOTHER:
                    raise
                problems.append(f"{node}: {fault.faultString}")
        raise Failed("no node could do it:\n  " + "\n  ".join(problems))

    def leader(self):
        """The leader's address."""
        return self.ask_any("GetLeader")["address"]

    def submit(self, value):
        """Appends a value through the leader. The key makes it one record, whoever is asked how
        often: without it, asking the next node could append the value twice."""
        try:
            leader = self.leader()
        except Failed:
            leader = None  # An election, perhaps. Every node waits for its end.
        return self.ask_any("SubmitValue", value, str(uuid.uuid4()), first=leader)

    def lab(self, node, method, *params):
        """Calls a method that breaks something on purpose."""
        try:
            return self.ask(node, method, *params)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != UNKNOWN_METHOD:
                raise
            raise Failed(f"{node} has no lab mode, so it has no {method} ({fault.faultString})")


def submit(cluster, values):
    for value in values:
        print(f"{value}: {cluster.submit(value)}")


def status(cluster):
    row = "{:<22} {:<4} {:<13} {:<7} {:>6} {:>8} {:>8}"
    print(row.format("address", "node", "role", "leader", "term", "commit", "records"))
    up = 0
    for node in cluster.nodes:
        try:
            seen = cluster.ask(node, "GetStatus")
        except (Failed, xmlrpc.client.Fault) as problem:
            print(f"{node:<22} {words(problem)}")
            continue
        up += 1
        leader = f"n{seen['leader']}" if seen["leader"] else "-"
        records = seen["next_seq"] - seen["first_seq"]
        print(
            row.format(
                node, f"n{seen['node']}", seen["role"], leader, seen["term"],
                seen["commit_index"], records,
            )
        )
    if up == 0:
        raise Failed("no node answers")


def log(cluster):
    next_seq = 1
    while records := cluster.ask_any("GetLog", next_seq):
        for record in records:
            print(record["seq"], shown(record["value"]))
        next_seq = records[-1]["seq"] + 1


def shown(value):
    """A value on one line. Bytes that are no text come as a Binary."""
    if isinstance(value, xmlrpc.client.Binary):
        return repr(value.data)
    return value if value.isprintable() else repr(value)


def words(problem):
    """An error as a sentence."""
    return problem.faultString if isinstance(problem, xmlrpc.client.Fault) else str(problem)


def restart_election(cluster):
    before = cluster.leader()
    cluster.lab(before, "SetHeartbeatInterval", 20)
    print(f"{before} sends a heartbeat every 20 s now; the others will not wait that long")
    end = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end:
        try:
            now = cluster.leader()
        except Failed:
            now = before  # Nobody leads at this moment.
        if now != before:
            print(f"{now} leads now")
            return
        time.sleep(0.2)
    raise Failed(f"{before} still leads")


def write_to_leader_only(cluster):
    value = input("value: ")
    leader = cluster.leader()
    cluster.lab(leader, "SimulateReplicationFailure", True)
    try:
        print(f"{leader} replicates nothing now; it tries to append {shown(value)} ...")
        try:
            print(cluster.ask(leader, "SubmitValue", value, str(uuid.uuid4())))
        except xmlrpc.client.Fault as fault:
            print(f"as it should be: {fault.faultString}")
        status(cluster)
        input("Enter lets it replicate again ")
    finally:
        cluster.lab(leader, "SimulateReplicationFailure", False)
        print(f"{leader} replicates again")


def delete_log(cluster):
    for number, node in enumerate(cluster.nodes, 1):
        print(f" {number}  {node}")
    choice = input("which node? ")
    if not choice.isdecimal() or not 1 <= int(choice) <= len(cluster.nodes):
        raise Failed(f"there is no node {choice!r} in the list")
    node = cluster.nodes[int(choice) - 1]
    cluster.lab(node, "DeleteLogFile")
    print(f"{node} has deleted its log; it gets it again from the others")


def write_values(cluster):
    submit(cluster, input("values, with blanks between them: ").split())


def menu(cluster):
    actions = {
        "1": restart_election,
        "2": write_values,
        "3": write_to_leader_only,
        "4": delete_log,
        "5": status,
        "6": log,
    }
    while True:
        print(MENU)
        try:
            choice = input("> ").strip()
            if choice == "0":
                return
            if choice in actions:
                actions[choice](cluster)
            elif choice:
                print(f"there is no point {choice!r}")
        except (Failed, xmlrpc.client.Fault) as problem:
            print(f"error: {words(problem)}")
        except (EOFError, KeyboardInterrupt):
            print()
            return


def main(arguments):
    if "-h" in arguments or "--help" in arguments:
        print(__doc__)
        return 0
    at = next((at for at, word in enumerate(arguments) if word in COMMANDS), len(arguments))
    nodes, command, values = arguments[:at], arguments[at : at + 1], arguments[at + 1 :]
    wrong = [node for node in nodes if ":" not in node]
    if wrong or (command == ["submit"]) != bool(values):
        print(f"{wrong[0]} is no address" if wrong else "wrong arguments", file=sys.stderr)
        print(__doc__, file=sys.stderr)
        return 2
    cluster = Cluster(nodes or NODES)
    try:
        if command == ["submit"]:
            submit(cluster, values)
        elif command == ["status"]:
            status(cluster)
        elif command == ["log"]:
            log(cluster)
        else:
            menu(cluster)
    except (Failed, xmlrpc.client.Fault) as problem:
        print(f"error: {words(problem)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 1
    except BrokenPipeError:
        # Whoever read the output (`| head`) has enough; nothing is left to be flushed into it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
