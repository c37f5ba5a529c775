------------------------------- MODULE Rejoin -------------------------------
(* Protocol RJ: how a node that lost its disk becomes a voter again            *)
(* (../rejoin.md), and how an operator lets a cluster begin again.             *)
(*                                                                             *)
(* Raft, abstractly: what was once said (a request for votes, a vote, an       *)
(* acknowledgement) stays in a set that only grows, so that it can arrive      *)
(* arbitrarily late, or never.  A node is what its disk holds: an action that  *)
(* the program does in memory first happens here when it is durable.  Only a   *)
(* leader has more in memory than on its disk (llog): it sends entries before  *)
(* its own write is done, and counts itself when it is.                        *)
(*                                                                             *)
(* Variant = "plain"      a wiped node comes back as an empty voter            *)
(*           "catchup"    it votes when it holds all that the current leader   *)
(*                        calls committed                                      *)
(*           "catchlast"  it votes when it holds the leader's whole log        *)
(*           "readmit"    protocol RJ                                          *)
(*                                                                             *)
(* The same model, action by action, is crates/tercet-sim/src/model.rs; the    *)
(* names are the same.  Not modelled: the repair of single damaged entries,    *)
(* snapshots, and changes of membership.                                       *)
(* When the latter come: an entry gets a kind, Follow may put a summary, with  *)
(* the admitted incarnations, in place of a prefix, and Quorum becomes a       *)
(* function of a log.                                                          *)
EXTENDS Naturals, FiniteSets, Sequences, TLC
CONSTANTS Server, Nil, MaxTerm, MaxLog, MaxWipe, MaxRecover, Variant
VARIABLES term, vote, log, role, inc, mode,    \* per node: its disk, and its part
          reqs, votes, acks,                   \* what was said
          lid, llog, lcommit,                  \* per term: leader, its log in memory, its commit
          committed, twoLeaders,               \* for the properties
          wipes, recoveries, wiped,            \* wiped: the incarnations that came without a memory
          floor                                \* <<term, index>>: where every leader's log reaches
disk == <<term,vote,log,role,inc,mode>>
said == <<reqs,votes,acks>>
reigns == <<lid,llog,lcommit>>
count == <<wipes,recoveries,wiped,floor>>
vars == <<disk,said,reigns,committed,twoLeaders,count>>
Terms == 1..MaxTerm
Quorum == {Q \in SUBSET Server : 2*Cardinality(Q) > Cardinality(Server)}
LastT(l) == IF Len(l) = 0 THEN 0 ELSE l[Len(l)].t
AtLeast(lt, li, t, i) == lt > t \/ (lt = t /\ li >= i)
UpToDate(lt, li, l) == AtLeast(lt, li, LastT(l), Len(l)) /\ AtLeast(lt, li, floor[1], floor[2])

Init == /\ term = [s \in Server |-> 0] /\ vote = [s \in Server |-> Nil]
        /\ log = [s \in Server |-> <<>>] /\ role = [s \in Server |-> "F"]
        /\ inc = [s \in Server |-> 0] /\ mode = [s \in Server |-> "ok"]
        /\ reqs = {} /\ votes = {} /\ acks = {}
        /\ lid = [t \in Terms |-> Nil] /\ llog = [t \in Terms |-> <<>>]
        /\ lcommit = [t \in Terms |-> 0]
        /\ committed = {} /\ twoLeaders = FALSE
        /\ wipes = 0 /\ recoveries = 0 /\ wiped = {} /\ floor = <<0, 0>>

(* Elections. *)
Timeout(s) == /\ mode[s] = "ok" /\ role[s] # "L" /\ term[s] < MaxTerm
  /\ AtLeast(LastT(log[s]), Len(log[s]), floor[1], floor[2])
  /\ term' = [term EXCEPT ![s] = @+1] /\ vote' = [vote EXCEPT ![s] = s]
  /\ role' = [role EXCEPT ![s] = "C"]
  /\ reqs' = reqs \cup {[t |-> term[s]+1, c |-> s, lt |-> LastT(log[s]), li |-> Len(log[s])]}
  /\ votes' = votes \cup {<<term[s]+1, s, s>>}
  /\ UNCHANGED <<log,inc,mode,acks,reigns,committed,twoLeaders,count>>

\* The term rule without anything else: any message may carry a term that somebody reached.
Observe(s, t) == /\ t > term[s] /\ (\E r \in reqs : r.t = t)
  /\ term' = [term EXCEPT ![s] = t] /\ vote' = [vote EXCEPT ![s] = Nil]
  /\ role' = [role EXCEPT ![s] = "F"]
  /\ UNCHANGED <<log,inc,mode,said,reigns,committed,twoLeaders,count>>

Grant(v, r) == /\ r \in reqs /\ mode[v] = "ok" /\ v # r.c /\ term[v] <= r.t
  /\ (term[v] = r.t => vote[v] \in {Nil, r.c}) /\ UpToDate(r.lt, r.li, log[v])
  /\ <<r.t, r.c, v>> \notin votes
  /\ term' = [term EXCEPT ![v] = r.t] /\ vote' = [vote EXCEPT ![v] = r.c]
  /\ role' = [role EXCEPT ![v] = IF term[v] < r.t THEN "F" ELSE @]
  /\ votes' = votes \cup {<<r.t, r.c, v>>}
  /\ UNCHANGED <<log,inc,mode,reqs,acks,reigns,committed,twoLeaders,count>>

Win(s) == /\ role[s] = "C" /\ {v \in Server : <<term[s], s, v>> \in votes} \in Quorum
  /\ role' = [role EXCEPT ![s] = "L"]
  /\ twoLeaders' = (twoLeaders \/ lid[term[s]] # Nil)
  /\ lid' = [lid EXCEPT ![term[s]] = s] /\ llog' = [llog EXCEPT ![term[s]] = log[s]]
  /\ UNCHANGED <<term,vote,log,inc,mode,said,lcommit,committed,count>>

(* Replication. *)
Leads(s) == role[s] = "L" /\ lid[term[s]] = s
Put(s, k) == LET t == term[s] IN
  /\ Leads(s) /\ Len(llog[t]) < MaxLog
  /\ llog' = [llog EXCEPT ![t] = Append(@, [t |-> t, k |-> k])]
  /\ UNCHANGED <<disk,said,lid,lcommit,committed,twoLeaders,count>>
Client(s) == Put(s, Nil)

\* By a leader that has committed an entry of its own term, one at a time.  The incarnation that asked
\* may be gone again: then nobody ever leaves by this entry.
Readmit(s, w) == LET t == term[s] IN
  /\ Variant = "readmit" /\ w \in wiped /\ w[1] # s /\ Leads(s)
  /\ lcommit[t] > 0 /\ llog[t][lcommit[t]].t = t
  /\ \A i \in 1..Len(llog[t]) : llog[t][i].k # w
  /\ \A i \in (lcommit[t]+1)..Len(llog[t]) : llog[t][i].k = Nil
  /\ Put(s, w)

\* A node stores the log of the leader of term t up to i; a voter acknowledges it, a mute node's word
\* does not count.  The leader itself does the same when its own write is done.
Follow(v, t, i) == LET p == SubSeq(llog[t], 1, i)
                       same == Len(log[v]) >= i /\ SubSeq(log[v],1,i) = p IN
  /\ lid[t] # Nil /\ i \in 1..Len(llog[t])
  /\ IF v = lid[t] THEN term[v] = t ELSE term[v] <= t
  /\ log' = [log EXCEPT ![v] = IF same THEN @ ELSE p]
  /\ term' = [term EXCEPT ![v] = t]
  /\ vote' = [vote EXCEPT ![v] = IF term[v] < t THEN Nil ELSE @]
  /\ role' = [role EXCEPT ![v] = IF v = lid[t] THEN @ ELSE "F"]
  /\ acks' = IF mode[v] = "ok" THEN acks \cup {<<t, v, i>>} ELSE acks
  /\ UNCHANGED <<inc,mode,reqs,votes,reigns,committed,twoLeaders,count>>

Commit(s, i) == LET t == term[s] IN
  /\ Leads(s) /\ i \in 1..Len(llog[t]) /\ i > lcommit[t] /\ llog[t][i].t = t
  /\ {v \in Server : \E j \in i..MaxLog : <<t, v, j>> \in acks} \in Quorum
  /\ lcommit' = [lcommit EXCEPT ![t] = i]
  /\ committed' = committed \cup {<<j, llog[t][j], t>> : j \in 1..i}
  /\ UNCHANGED <<disk,said,lid,llog,twoLeaders,count>>

(* Faults.  A crash loses what is not on the disk; stepping down is the same to others. *)
Crash(s) == /\ role[s] # "F" /\ role' = [role EXCEPT ![s] = "F"]
  /\ UNCHANGED <<term,vote,log,inc,mode,said,reigns,committed,twoLeaders,count>>

Wipe(s) == /\ wipes < MaxWipe /\ wipes' = wipes+1 /\ term[s] > 0
  /\ term' = [term EXCEPT ![s] = 0] /\ vote' = [vote EXCEPT ![s] = Nil]
  /\ log' = [log EXCEPT ![s] = <<>>] /\ role' = [role EXCEPT ![s] = "F"]
  /\ inc' = [inc EXCEPT ![s] = @+1] /\ wiped' = wiped \cup {<<s, inc[s]+1>>}
  /\ mode' = [mode EXCEPT ![s] = IF Variant = "plain" THEN "ok" ELSE "mute"]
  /\ UNCHANGED <<said,reigns,committed,twoLeaders,recoveries,floor>>

(* The way out.  It takes two writes: first the hard state, then the identity. *)
OwnReadmit(a, i) == LET t == term[a] IN
  /\ mode[a] = "mute" /\ t \in Terms /\ lid[t] # Nil
  /\ i \in 1..Len(log[a]) /\ log[a][i].k = <<a, inc[a]>>
  /\ SubSeq(llog[t], 1, i) = SubSeq(log[a], 1, i)
  \* By this leader, or by an earlier one, from which this leader knows it.
  /\ \E c \in committed : c[1] = i /\ c[2] = log[a][i] /\ c[3] <= t
Promise(a, i) == /\ Variant = "readmit" /\ OwnReadmit(a, i) /\ vote[a] = Nil
  /\ vote' = [vote EXCEPT ![a] = lid[term[a]]]
  /\ UNCHANGED <<term,log,role,inc,mode,said,reigns,committed,twoLeaders,count>>
Admit(a, i) == /\ Variant = "readmit" /\ OwnReadmit(a, i) /\ vote[a] = lid[term[a]]
  /\ mode' = [mode EXCEPT ![a] = "ok"]
  /\ UNCHANGED <<term,vote,log,role,inc,said,reigns,committed,twoLeaders,count>>

\* What others do, and what loses data.
CatchUp(a) == LET t == term[a] IN
  /\ mode[a] = "mute" /\ t \in Terms /\ lid[t] # Nil /\ role[lid[t]] = "L" /\ term[lid[t]] = t
  /\ SubSeq(llog[t], 1, Len(log[a])) = log[a] /\ Len(log[a]) > 0
  /\ \/ Variant = "catchup" /\ lcommit[t] > 0 /\ Len(log[a]) >= lcommit[t]
     \/ Variant = "catchlast" /\ Len(log[a]) = Len(llog[t])
  /\ vote' = [vote EXCEPT ![a] = lid[t]] /\ mode' = [mode EXCEPT ![a] = "ok"]
  /\ UNCHANGED <<term,log,role,inc,said,reigns,committed,twoLeaders,count>>

\* An operator lets the cluster begin again from the log of s.  All others are new; what was said in the
\* older generation is not heard any more; the survivor's log is as good as committed.
Recover(s) == /\ recoveries < MaxRecover /\ mode[s] = "ok" /\ term[s] > 0
  /\ recoveries' = recoveries + 1 /\ floor' = <<LastT(log[s]), Len(log[s])>>
  /\ term' = [v \in Server |-> IF v = s THEN term[s] ELSE 0]
  /\ vote' = [v \in Server |-> IF v = s THEN vote[s] ELSE Nil]
  /\ log' = [v \in Server |-> IF v = s THEN log[s] ELSE <<>>]
  /\ role' = [v \in Server |-> "F"] /\ mode' = [v \in Server |-> "ok"]
  /\ inc' = [v \in Server |-> inc[v] + 1]
  /\ reqs' = {} /\ votes' = {} /\ acks' = {}
  /\ lid' = [t \in Terms |-> Nil] /\ llog' = [t \in Terms |-> <<>>]
  /\ lcommit' = [t \in Terms |-> 0]
  /\ committed' = {<<j, log[s][j], 0>> : j \in 1..Len(log[s])}
  /\ wiped' = {} /\ UNCHANGED <<twoLeaders,wipes>>

Next == \/ \E s \in Server : Timeout(s) \/ Win(s) \/ Client(s) \/ Crash(s) \/ Wipe(s)
                             \/ CatchUp(s) \/ Recover(s)
        \/ \E s \in Server, t \in Terms : Observe(s, t)
        \/ \E v \in Server : \E r \in reqs : Grant(v, r)
        \/ \E s \in Server : \E w \in wiped : Readmit(s, w)
        \/ \E v \in Server, t \in Terms : \E i \in 1..MaxLog : Follow(v, t, i)
        \/ \E s \in Server : \E i \in 1..MaxLog : Commit(s, i) \/ Promise(s, i) \/ Admit(s, i)
Spec == Init /\ [][Next]_vars
Symm == Permutations(Server)

(* Properties. *)
ElectionSafety == ~twoLeaders
LeaderCompleteness == \A c \in committed : \A t \in Terms :
   (t > c[3] /\ lid[t] # Nil) => (Len(llog[t]) >= c[1] /\ llog[t][c[1]] = c[2])
StateMachineSafety == \A c, d \in committed : c[1] = d[1] => c[2] = d[2]
(* To see that a run gets there at all: these are violated. *)
NeverReadmitted == ~(\E a \in Server : <<a, inc[a]>> \in wiped /\ mode[a] = "ok")
NeverReadmittedLeader ==
   ~(\E a \in Server : <<a, inc[a]>> \in wiped /\ Leads(a) /\ lcommit[term[a]] >= 2)
=============================================================================
