//! The datagrams of a host in memory.

use std::net::SocketAddr;

use rivven_core_types::{BoxFuture, Datagram};
use tokio::sync::mpsc;

use super::{MemoryEvent, MemoryNetwork};

/// Datagrams that wait for a receiver; more are lost, as in a socket buffer.
pub(super) const DATAGRAM_QUEUE: usize = 1024;

/// The datagram socket of one life of a host.
#[derive(Debug)]
pub struct MemoryDatagram {
    network: MemoryNetwork,
    address: SocketAddr,
    generation: u64,
    receiver: tokio::sync::Mutex<mpsc::Receiver<(Vec<u8>, SocketAddr)>>,
}

impl MemoryDatagram {
    pub(super) fn new(
        network: MemoryNetwork,
        address: SocketAddr,
        generation: u64,
        receiver: mpsc::Receiver<(Vec<u8>, SocketAddr)>,
    ) -> Self {
        Self {
            network,
            address,
            generation,
            receiver: receiver.into(),
        }
    }

    fn launch(&self, payload: &[u8], to: SocketAddr, lost: u64) {
        let Some(latency) = self.network.send(self.address, to, lost, 0) else {
            return;
        };
        let (network, payload, from) = (self.network.clone(), payload.to_vec(), self.address);
        drop(tokio::spawn(async move {
            network.until_resumed(from).await;
            tokio::time::sleep(latency).await;
            network.until_resumed(to).await;
            network.tell(from, to, MemoryEvent::Datagram(&payload));
            let world = network.world();
            let target = world.hosts.get(&to).and_then(|h| h.datagrams.as_ref());
            if let Some(target) = target {
                // A full buffer or a dead receiver loses the datagram, as UDP does.
                drop(target.try_send((payload, from)));
            }
        }));
    }
}

impl Datagram for MemoryDatagram {
    fn send_to<'a>(
        &'a self,
        payload: &'a [u8],
        to: SocketAddr,
    ) -> BoxFuture<'a, std::io::Result<()>> {
        if self.network.is_alive(self.address, self.generation) {
            let (weather, doubled) = {
                let mut world = self.network.world();
                world.traffic.datagrams += 1;
                let weather = world.weather;
                let doubled = world.chance(weather.doubled_datagrams);
                world.traffic.disturbed += u64::from(doubled);
                (weather, doubled)
            };
            for _ in 0..=u8::from(doubled) {
                self.launch(payload, to, weather.lost_datagrams);
            }
        }
        Box::pin(async { Ok(()) })
    }

    fn recv_from<'a>(
        &'a self,
        buffer: &'a mut [u8],
    ) -> BoxFuture<'a, std::io::Result<(usize, SocketAddr)>> {
        Box::pin(async move {
            let received = self.receiver.lock().await.recv().await;
            let (payload, from) =
                received.ok_or_else(|| std::io::Error::other("the simulated host is dead"))?;
            let length = payload.len().min(buffer.len());
            buffer[..length].copy_from_slice(&payload[..length]);
            Ok((length, from))
        })
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}
