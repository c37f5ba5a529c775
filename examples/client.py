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
        self.silent = []  # Nodes whose replication fails, and was left so.

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
            raise Failed(
                f"{node} has no lab mode, so it has no {method} ({fault.faultString}): "
                "start the nodes with --lab"
            )


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


def statuses(cluster):
    """What the nodes say of themselves, those that answer."""
    seen = []
    for node in cluster.nodes:
        try:
            seen.append(cluster.ask(node, "GetStatus"))
        except (Failed, xmlrpc.client.Fault):
            pass
    return seen


def wait_for(check, seconds=TIMEOUT_S):
    """Waits until a check returns something, and returns that; None if it does not in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := check():
            return found
        time.sleep(0.1)
    return None


def restart_election(cluster):
    before = cluster.leader()
    term = cluster.ask(before, "GetStatus")["term"]
    print(f"{before} leads in term {term}")
    print(f"{before}: {cluster.lab(before, 'SetHeartbeatInterval', 20)}")

    def new_leader():
        leaders = [seen for seen in statuses(cluster) if seen["role"] == "leader"]
        return next((seen for seen in leaders if seen["term"] > term), None)

    seen = wait_for(new_leader)
    if not seen:
        raise Failed(f"{before} still leads")
    print(f"n{seen['node']} leads now, in term {seen['term']}: the others did not wait for 20 s")
    status(cluster)


def write_to_leader_only(cluster):
    for node in list(cluster.silent):
        heal(cluster, node)
    value = input("value: ")
    leader = cluster.leader()
    before = cluster.ask(leader, "GetStatus")["next_seq"]
    print(f"{leader}: {cluster.lab(leader, 'SimulateReplicationFailure', True)}")
    cluster.silent.append(leader)
    left = False
    try:
        print(f"{leader} tries to append {shown(value)} ...")
        try:
            print(cluster.ask(leader, "SubmitValue", value, str(uuid.uuid4())))
        except xmlrpc.client.Fault as fault:
            print(f"not acknowledged, as it should be: {fault.faultString}")
        status(cluster)
        left = input(f"[h]eal {leader}, or [l]eave it as it is? ").strip().lower().startswith("l")
    finally:
        if not left:
            heal(cluster, leader)
    if left:
        print(f"{leader} replicates nothing until point 3 is chosen again")
    else:
        tell_fate(cluster, value, leader, before)


def heal(cluster, node):
    cluster.silent.remove(node)  # Also if it is down: its next process begins without.
    print(f"{node}: {cluster.lab(node, 'SimulateReplicationFailure', False)}")


def tell_fate(cluster, value, silenced, from_seq):
    """What became of a value that nobody acknowledged."""

    def leading():
        seen = statuses(cluster)
        agree = len({(one["term"], one["leader"]) for one in seen}) == 1
        return agree and next((one for one in seen if one["role"] == "leader"), None)

    def same_logs():
        return len({one["last_index"] for one in statuses(cluster)}) == 1

    leader = wait_for(leading)
    if not leader:
        raise Failed("the nodes do not agree on a leader")
    is_settled = wait_for(same_logs, 3)
    records = cluster.ask_any("GetLog", from_seq) if leader["next_seq"] > from_seq else []
    seqs = [record["seq"] for record in records if record["value"] == value]
    if seqs:
        print(f"{shown(value)} was committed after all: it is record {seqs[0]}")
    elif is_settled:
        print(f"{shown(value)} is lost: the log of n{leader['node']} took its place")
    else:
        # The Raft of the paper cuts it off only when there is a next value.
        print(f"{shown(value)} is in the log of {silenced} only; the next value takes its place")
    status(cluster)


def delete_log(cluster):
    for number, node in enumerate(cluster.nodes, 1):
        print(f" {number}  {node}")
    choice = input("which node? ").strip()
    if not choice.isdecimal() or not 1 <= int(choice) <= len(cluster.nodes):
        raise Failed(f"there is no node {choice!r} in the list")
    node = cluster.nodes[int(choice) - 1]
    before = cluster.ask(node, "GetStatus")
    print(f"{node} has {before['last_index']} entries in its log")
    print(f"{node}: {cluster.lab(node, 'DeleteLogFile')}")

    def is_back():
        seen = [one for one in statuses(cluster) if one["node"] == before["node"]]
        roles = [one["role"] for one in seen if one["incarnation"] != before["incarnation"]]
        return roles if roles and roles[0] in ("follower", "leader") else None

    if not wait_for(is_back):
        raise Failed(f"{node} is no voter again within {TIMEOUT_S} s: see its status")
    print(f"{node} lost its memory, got its log from the others, and is a voter again")
    status(cluster)


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
