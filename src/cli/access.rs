//! Whoever has the project open answers: its daemon, or, when there is none, this process for a moment.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::cli::session::Session;
use crate::control::{Client, Request};
use crate::engine::Engine;
use crate::error::{Class, Error, Result};
use crate::project::Project;

/// A project that answers requests.
pub enum Access {
    /// Its daemon does.
    Daemon(Box<Client>),
    /// Nobody had it open: we do now.
    Here(Arc<Engine>),
}

impl Access {
    /// Asks the daemon, or opens the project (with recovery) where there is none.
    ///
    /// # Errors
    /// What the daemon or the opening says.
    pub fn open(project: &Project, session: &Session) -> Result<Self> {
        match Client::connect(&project.layout) {
            Ok(client) => Ok(Self::Daemon(Box::new(client))),
            Err(e) if e.class == Class::DaemonGone => Ok(Self::Here(Engine::open(project, &session.settings(project, &[])?)?)),
            Err(e) => Err(e),
        }
    }

    /// Asks one thing and lets go.
    ///
    /// # Errors
    /// The answer's.
    pub fn ask<T: DeserializeOwned>(mut self, request: Request) -> Result<T> {
        let answer = self.call(request);
        let closed = self.close();
        let value = answer?;
        closed.map(|()| value)
    }

    /// Asks one thing.
    ///
    /// # Errors
    /// The answer's.
    pub fn call<T: DeserializeOwned>(&mut self, request: Request) -> Result<T> {
        match self {
            Self::Daemon(client) => client.call(&request),
            Self::Here(engine) => {
                let uid = rustix::process::getuid().as_raw();
                let value = engine.handle(request, uid).into_result()?;
                serde_json::from_value(value).map_err(|e| Error::new(Class::Failed, format!("the answer makes no sense: {e}")))
            }
        }
    }

    /// Lets go.
    ///
    /// # Errors
    /// What closing the project says, where it was opened here.
    pub fn close(self) -> Result<()> {
        match self {
            Self::Daemon(_) => Ok(()),
            Self::Here(engine) => engine.close(),
        }
    }
}
