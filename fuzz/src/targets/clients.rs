//! What clients send: HTTP, gRPC and XML-RPC behind the client port's own routes.
//!
//! An input is a request as text: the method and the path, headers line by line, an empty line, the
//! body. The body of a gRPC call gets its length in front.

use std::thread_local;

use dxr::{FaultResponse, MethodResponse};
use serde_json::Value;
use tercet_server::for_fuzzing::{Answer, ClientPort, Request};

use super::{KIB, MIB};
use crate::Target;

thread_local! {
    static PORT: ClientPort = ClientPort::new();
}

pub(super) const REQUESTS: Target = Target {
    name: "client_requests",
    about: "requests of clients (HTTP/JSON, gRPC, XML-RPC): answered with a status, and with JSON \
            that is JSON",
    run: requests,
    seeds: request_seeds,
    words: request_words,
    bytes_max: 16 * KIB,
    memory_max: 4 * MIB,
};

pub(super) const XML_RPC: Target = Target {
    name: "xml_rpc",
    about: "bodies of XML-RPC calls: answered with a response or a fault that can be read",
    run: xml_rpc,
    seeds: xml_seeds,
    words: xml_words,
    bytes_max: 16 * KIB,
    memory_max: MIB,
};

fn answer(request: &Request<'_>) -> Option<Answer> {
    PORT.with(|port| port.answer(request))
}

fn requests(input: &[u8]) {
    let end = input.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = end.map_or((input, &[][..]), |end| (&input[..end], &input[end + 2..]));
    let Ok(head) = std::str::from_utf8(head) else { return };
    let mut lines = head.split('\n');
    let (method, target) =
        lines.next().and_then(|line| line.split_once(' ')).unwrap_or(("GET", head));
    let headers: Vec<(&str, &[u8])> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name, value.as_bytes()))
        .collect();
    let is_grpc = target.starts_with("/tercet.v1.") || target.starts_with("/grpc.");
    let body = if is_grpc {
        let length = u32::try_from(body.len()).expect("inputs are short").to_be_bytes();
        [&[0], &length[..], body].concat()
    } else {
        body.to_vec()
    };
    let Some(answer) = answer(&Request { method, target, headers, body }) else { return };
    assert!((200..600).contains(&answer.status), "status {}", answer.status);
    // An answer to HEAD has no body, whatever it says.
    if answer.body.is_empty() {
        return;
    }
    match answer.kind.as_str() {
        "application/json" => {
            let read: Result<Value, _> = serde_json::from_slice(&answer.body);
            assert!(read.is_ok(), "{read:?}");
        }
        "application/problem+json" => {
            let problem: Value = serde_json::from_slice(&answer.body).expect("a problem is JSON");
            for key in ["title", "status", "detail", "reason", "outcome"] {
                assert!(problem.get(key).is_some(), "a problem has a {key}: {problem}");
            }
            assert!(answer.status >= 300, "a problem is no success");
        }
        "text/xml; charset=utf-8" => check_xml(&answer.body),
        _ => {}
    }
}

fn xml_rpc(input: &[u8]) {
    let headers = vec![("content-type", &b"text/xml"[..])];
    let request = Request { method: "POST", target: "/RPC2", headers, body: input.to_vec() };
    let answer = answer(&request).expect("a call is answered");
    assert_eq!((answer.status, answer.kind.as_str()), (200, "text/xml; charset=utf-8"));
    check_xml(&answer.body);
}

/// The answer is a response or a fault with a code that is documented.
fn check_xml(body: &[u8]) {
    let text = std::str::from_utf8(body).expect("an answer is UTF-8");
    let fault = match (MethodResponse::from_xml(text), FaultResponse::from_xml(text)) {
        (Ok(_), _) => return,
        (Err(_), Ok(fault)) => fault.fault,
        (Err(error), Err(_)) => panic!("an answer that cannot be read: {error}: {text}"),
    };
    assert!(
        (1..=16).contains(&fault.code()) || (-32701..=-32600).contains(&fault.code()),
        "{fault}"
    );
    let says = ["(not appended)", "(unknown)"];
    assert!(says.iter().any(|end| fault.string().ends_with(end)), "{fault}");
}

fn request_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = [
        "GET /v1/records?from=2&limit=1&wait=1s&consistency=local\naccept: text/plain\n\n",
        "GET /v1/records?from=9\n\n",
        "GET /v1/records\naccept: text/event-stream\nlast-event-id: 1\n\n",
        "POST /v1/records?wait=all&timeout=500ms\ncontent-type: application/json\nidempotency-key: \
         order 4711\nexpect-next: 4\nforward: never\n\n{\"records\": [\"a\", 1, true, {\"base64\": \
         \"/wA=\"}]}",
        "POST /v1/records?lines\n\na\r\nb\n",
        "POST /v1/records?wait=quorum&timeout=2m\ncontent-type: \
         application/octet-stream\nidempotency-key: 01901234-5678-7abc-8def-0123456789ab\n\n\u{1}",
        "POST /v1/records\nexpect-next: 5\ncontent-length: 99999999999\n\nx",
        "GET /v1/tail\n\n",
        "GET /v1/status\n\n",
        "GET /v1/explain\n\n",
        "GET /v1/events\n\n",
        "GET /metrics\n\n",
        "GET /readyz\n\n",
        "GET /livez\n\n",
        "GET /openapi.json\n\n",
        "GET /\n\n",
        "PATCH /nowhere\n\n",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    let grpc = |method: &str, extra: &str, body: &[u8]| {
        let head = format!(
            "POST /{method}\ncontent-type: application/grpc\nte: trailers\ngrpc-timeout: \
             100m{extra}\n\n"
        );
        [head.as_bytes(), body].concat()
    };
    let submit = [&b"\x0a\x02\x34\x34\x0a\x00\x12\x10"[..], &[7; 16], b"\x18\x04\x20\x01"].concat();
    seeds.push(grpc("tercet.v1.Log/Submit", "", &submit));
    seeds.push(grpc("tercet.v1.Log/SubmitStream", "", &submit));
    seeds.push(grpc("tercet.v1.Log/Read", "", b"\x08\x01\x10\x02\x18\x01"));
    seeds.push(grpc("tercet.v1.Log/ReadStream", "", b"\x08\x01\x10\x02"));
    seeds.push(grpc("tercet.v1.Log/Tail", "", b""));
    seeds.push(grpc("tercet.v1.Cluster/Status", "", b""));
    seeds.push(grpc("tercet.v1.Cluster/Explain", "\ngrpc-encoding: gzip", b""));
    seeds.push(grpc("tercet.v1.Cluster/TransferLeadership", "", b"\x08\x02"));
    seeds.push(grpc("tercet.v1.Lab/Look", "\nlab-token: x", b"\x08\x01"));
    for gate in ["cut n2", "delay n2 10ms", "drop n2 50%", "dup n2", "hold Append to n2", "heal"] {
        let length = u8::try_from(gate.len()).expect("short");
        for field in [0x22, 0x2a, 0x32] {
            let body = [&[field, length], gate.as_bytes()].concat();
            seeds.push(grpc("tercet.v1.Lab/Interfere", "", &body));
        }
    }
    for body in [&b"\x0a\x00"[..], b"\x12\x02\x08\x01", b"\x1a\x04\x08\x0a\x10\x01", b"\x38\x05"] {
        seeds.push(grpc("tercet.v1.Lab/Interfere", "", body));
    }
    seeds.push(grpc("grpc.health.v1.Health/Check", "", b"\x0a\x0dtercet.v1.Log"));
    seeds.push(grpc("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "", b"\x3a\x00"));
    seeds.extend(
        xml_seeds()
            .into_iter()
            .map(|body| [&b"POST /RPC2\ncontent-type: text/xml\n\n"[..], &body].concat()),
    );
    seeds
}

fn request_words() -> Vec<String> {
    let words = "GET POST HEAD PUT OPTIONS /v1/records /v1/tail /v1/status /v1/explain /v1/events \
                 /metrics /RPC2 /livez /readyz /tercet.v1.Log/ /tercet.v1.Cluster/ /tercet.v1.Lab/ \
                 Submit Read Tail Interfere Look ?from= ?limit= &limit= &wait= ?lines consistency= \
                 linearizable local quorum all timeout= ms idempotency-key:\u{20} expect-next:\u{20} \
                 forward:\u{20}never content-type:\u{20} application/json text/plain text/xml \
                 application/octet-stream application/grpc accept:\u{20} text/event-stream \
                 last-event-id:\u{20} grpc-timeout:\u{20} content-length:\u{20} lab-token:\u{20} \
                 \"records\" \"base64\" 18446744073709551615 9223372036854775808 -1 1e999";
    words.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn xml_seeds() -> Vec<Vec<u8>> {
    let call = |method: &str, values: &[&str]| {
        let param = |value: &&str| format!("<param>\n<value>{value}</value>\n</param>\n");
        let params: String = values.iter().map(param).collect();
        format!(
            "<?xml version='1.0'?>\n<methodCall>\n<methodName>{method}</methodName>\n\
             <params>\n{params}</params>\n</methodCall>\n"
        )
        .into_bytes()
    };
    let mut seeds = vec![
        call("SubmitValue", &["plain", "<string>key</string>"]),
        call("GetLeader", &[]),
        call("GetStatus", &[]),
        call("GetLog", &["<int>1</int>", "<i8>3</i8>"]),
        call("SetHeartbeatInterval", &["<double>0.5</double>"]),
        call("SetHeartbeatInterval", &["<int>0</int>"]),
        call("SimulateReplicationFailure", &["<boolean>1</boolean>"]),
        call("SimulateReplicationFailure", &["<boolean>0</boolean>"]),
        call("DeleteLogFile", &[]),
        call("RestartElection", &[]),
        call("system.listMethods", &[]),
        call("system.methodHelp", &["<string>GetLog</string>"]),
        call("system.methodSignature", &["SubmitValue"]),
    ];
    for value in [
        "<int>-1</int>",
        "<i4>7</i4>",
        "<i8>9223372036854775807</i8>",
        "<boolean>0</boolean>",
        "<double>-1.5e300</double>",
        "<base64>\nAP8=\n</base64>",
        "<dateTime.iso8601>20240229T23:59:59</dateTime.iso8601>",
        "<nil/>",
        "<string>&lt;&amp;&#228;&#xe4;<![CDATA[<x>]]><!-- z --></string>",
        "<array><data><value><int>1</int></value></data></array>",
        "<struct><member><name>a</name><value>1</value></member></struct>",
    ] {
        seeds.push(call("SubmitValue", &[value]));
    }
    seeds
}

fn xml_words() -> Vec<String> {
    [
        "<methodCall>",
        "</methodCall>",
        "<methodName>",
        "</methodName>",
        "<params>",
        "</params>",
        "<param>",
        "</param>",
        "<value>",
        "</value>",
        "<value/>",
        "<int>",
        "</int>",
        "<i8>",
        "</i8>",
        "<array>",
        "<data>",
        "</data>",
        "</array>",
        "<struct>",
        "<member>",
        "<name>",
        "</name>",
        "</member>",
        "</struct>",
        "<nil/>",
        "<base64>",
        "</base64>",
        "<string>",
        "</string>",
        "<boolean>",
        "</boolean>",
        "<double>",
        "</double>",
        "<dateTime.iso8601>",
        "&#0;",
        "&#x110000;",
        "&lt;",
        "&amp;",
        "<![CDATA[",
        "]]>",
        "<!--",
        "-->",
        "<?xml version='1.0' encoding='",
        "?>",
        "<!DOCTYPE",
        "SubmitValue",
        "GetLog",
        "GetLeader",
        "SetHeartbeatInterval",
        "system.methodHelp",
        "\u{feff}",
        "inf",
        "nan",
        "1e308",
    ]
    .map(str::to_owned)
    .to_vec()
}
