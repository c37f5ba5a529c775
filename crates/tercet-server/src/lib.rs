//! A Tercet node: the driver, its links to peers and the client API.
