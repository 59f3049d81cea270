//! The right to read: the challenge that a holder sends first on a read stream, answered with the key that may.

use crate::lanes::Greeting;
use backmesh_format::keys::{KeyPair, VaultSecret};
use backmesh_format::vault::WriterCert;
use backmesh_format::{NodeId, Signed, VaultId};
use backmesh_mesh::message::{READ_REPLY_FRAME_BYTES_MAX, ReadReply, ReadRequest, Reader, read_proof_input};
use backmesh_net::{FrameReader, FrameWriter};
use std::sync::Arc;

/// Proves to holders that this side may read a vault.
#[derive(Clone)]
pub struct Prover {
    vault: VaultId,
    how: Reader,
    key: KeyPair,
}

impl Prover {
    /// As who has the recovery phrase.
    pub fn root(secret: &VaultSecret) -> Self {
        Self { vault: secret.vault(), how: Reader::Root, key: secret.root() }
    }

    /// As the machine that writes.
    pub fn writer(certificate: &Signed<WriterCert>, key: KeyPair) -> Self {
        Self { vault: certificate.vault, how: Reader::Writer(Box::new(certificate.clone())), key }
    }

    /// The vault.
    pub fn vault(&self) -> VaultId {
        self.vault
    }

    /// What is said first on each read stream that the node `me` opens.
    pub fn greeting(self, me: NodeId) -> Greeting {
        let this = Arc::new(self);
        Arc::new(move |server, reader, writer| {
            let this = Arc::clone(&this);
            Box::pin(async move { this.greet(me, server, reader, writer).await })
        })
    }

    async fn greet(
        &self,
        me: NodeId,
        server: NodeId,
        mut reader: FrameReader,
        mut writer: FrameWriter,
    ) -> Option<(FrameReader, FrameWriter)> {
        let frame = reader.next(READ_REPLY_FRAME_BYTES_MAX).await.ok()??;
        let Ok(ReadReply::Challenge { nonce }) = ReadReply::decode(frame) else { return None };
        let signature = self.key.sign(&read_proof_input(&nonce, &server, &me, &self.vault));
        let proof = ReadRequest::Prove { vault: self.vault, how: self.how.clone(), key: self.key.public(), signature };
        writer.send(&proof.encode()).await.ok()?;
        writer.flush().await.ok()?;
        let frame = reader.next(READ_REPLY_FRAME_BYTES_MAX).await.ok()??;
        match ReadReply::decode(frame) {
            Ok(ReadReply::Proved) => Some((reader, writer)),
            Ok(ReadReply::Refused { text, .. }) => {
                tracing::warn!(%server, "a member refused to be read from: {text}");
                None
            }
            _ => None,
        }
    }
}
