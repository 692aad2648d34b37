use model::{NicConfig, SharedCounters, Wire, frame_socket, control};
use model::vfio_user::Server;
use std::time::{Duration, Instant};
fn sum(b: &[u8]) -> u16 { let mut s = 0u32; for c in b.chunks(2) { s += u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0)); } while s >> 16 != 0 { s = (s & 0xffff) + (s >> 16); } !(s as u16) }
fn main() {
    let path = std::path::PathBuf::from(std::env::args().nth(1).unwrap());
    let _ = std::fs::remove_file(&path);
    let rate: u64 = std::env::args().nth(2).map_or(1000, |a| a.parse().unwrap());
    let server = Server::bind(&path).unwrap();
    let (near, mut far) = frame_socket::pair().unwrap();
    let (_remote, inbox) = control::channel().unwrap();
    let counters = SharedCounters::new();
    std::thread::spawn(move || { let r = server.serve(NicConfig::default(), near, inbox, counters); eprintln!("model: {r:?}"); std::process::exit(0); });
    let start = Instant::now();
    let (mut sent, mut got, mut last, mut seq) = (0u64, 0u64, Instant::now(), 0u32);
    let mut resolved = 0;
    let mut arrived = std::collections::BTreeMap::<[u8;6], u64>::new();
    let mut gap = Duration::ZERO; let mut latest: Option<Instant> = None;
    loop {
        let mut out = Vec::new();
        while let Some(f) = far.receive() {
            if f[12..14] == [8, 6] && f[20..22] == [0, 1] && f[38..41] == [10,0,1] && (11..=13).contains(&f[41]) {
                let mac = [2, 0xaa, 0, 0, 0, f[41]];
                let mut r = Vec::new(); r.extend(&f[6..12]); r.extend(mac); r.extend([8,6,0,1,8,0,6,4,0,2]); r.extend(mac); r.extend(&f[38..42]); r.extend(&f[22..32]); r.resize(60, 0);
                out.push(r); resolved += 1;
            } else if f[12..14] == [8, 0] { got += 1; *arrived.entry(f[0..6].try_into().unwrap()).or_default() += 1;
                let now = Instant::now(); if let Some(l) = latest { gap = gap.max(now - l); } latest = Some(now);
            } else if f[12..14] != [8,6] { eprintln!("frame {:02x?}", &f[..40.min(f.len())]); }
        }
        if resolved > 0 { let due = start.elapsed().as_millis() as u64 * rate / 1000; let mut n = 0; if sent == 0 { sent = due; }
            while sent < due && n < 64 { seq += 1; n += 1; sent += 1;
                let mut f = vec![2,0,0,0,0,1, 2,0xcc,0,0,0,1, 8,0, 0x45,0,0,40, 0,0,0,0, 64,17,0,0, 192,168,7,9, 10,0,1,100];
                let c = sum(&f[14..34]); f[24..26].copy_from_slice(&c.to_be_bytes());
                f.extend((5000 + (seq % 500) as u16).to_be_bytes()); f.extend(9000u16.to_be_bytes()); f.extend([0,20,0,0]); f.extend(seq.to_be_bytes()); f.resize(60,0); out.push(f); } }
        for f in out { far.send(&f); } far.flush();
        if last.elapsed() > Duration::from_secs(1) { eprintln!("{:?} sent {seq} got {got} resolved {resolved} gap {gap:?} {:?}", start.elapsed(), arrived.values().collect::<Vec<_>>()); last = Instant::now(); gap = Duration::ZERO; }
        std::thread::sleep(Duration::from_micros(500));
    }
}
