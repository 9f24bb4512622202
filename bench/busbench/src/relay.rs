//! The floor: takes two connections, answers those that register, and copies each one's bytes to the other without looking
//! at them. `pairs` such couples can be there at a time; the first two that connect make the first.
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const COPY_BYTES: usize = 1 << 18;

pub fn serve(address: &str) -> ! {
    let path = address.strip_prefix("unix:").unwrap_or_else(|| crate::stop("the relay listens on unix:/path"));
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).unwrap_or_else(|error| crate::stop(&format!("{path}: {error}")));
    loop {
        let first = accept(&listener);
        let second = accept(&listener);
        let (Some(first), Some(second)) = (first, second) else { continue };
        let (one, other) = (first.try_clone().unwrap(), second.try_clone().unwrap());
        copy(one, other);
        copy(second, first);
    }
}

/// A connection that has registered, or has not said anything for a moment.
fn accept(listener: &UnixListener) -> Option<UnixStream> {
    let (mut stream, _) = listener.accept().ok()?;
    stream.set_read_timeout(Some(Duration::from_millis(50))).ok()?;
    let mut header = [0; 4];
    match stream.read_exact(&mut header) {
        Ok(()) => {
            let mut frame = vec![0; u32::from_be_bytes(header) as usize];
            stream.read_exact(&mut frame).ok()?;
            let answer = b"{\"type\":\"registered\"}";
            stream.write_all(&(answer.len() as u32).to_be_bytes()).ok()?;
            stream.write_all(answer).ok()?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => (),
        Err(_) => return None,
    }
    stream.set_read_timeout(None).ok()?;
    Some(stream)
}

fn copy(mut from: UnixStream, mut to: UnixStream) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = vec![0; COPY_BYTES];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    })
}
