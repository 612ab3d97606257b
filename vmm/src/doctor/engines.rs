//! Which engines can run a guest here.

use super::kvm_probe::Kvm;
use super::{Item, Options, Section};
use guest_images::Host;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub(super) fn examine(options: &Options, kvm: &Kvm) -> Section {
    Section { title: "engines".into(), items: vec![soft(), hardware(&options.kvm, &options.host, kvm)] }
}

fn soft() -> Item {
    // The software CPU executes SIMD by the host's own instructions, up to SSE4.2.
    if is_x86_feature_detected!("sse4.2") && is_x86_feature_detected!("popcnt") {
        Item::ok("soft", "yes: needs no KVM, no root and no special hardware")
    } else {
        Item::missing("soft", "no: this processor lacks SSE4.2 or POPCNT")
            .advise("use a processor of the level x86-64-v2 or above (since 2009)")
    }
}

fn hardware(device: &Path, host: &Host, kvm: &Kvm) -> Item {
    let advice = match kvm {
        Kvm::RunsKernels => return Item::ok("kvm", kvm.to_string()),
        Kvm::Absent => {
            "not needed; to have it load kvm_intel or kvm_amd, turn on nested virtualisation in a virtual machine, or \
             pass the device into a container (--device /dev/kvm)"
                .to_owned()
        }
        Kvm::Denied => format!("not needed; to have it: {}", permission(device, host)),
        Kvm::Unusable { .. } => "not needed: Linux runs on the software engine".to_owned(),
        Kvm::NoKernel { .. } => {
            "nothing to do: Linux runs on the software engine; a host with VMX or SVM could use KVM".to_owned()
        }
    };
    Item::warn("kvm", kvm.to_string()).advise(advice)
}

/// How this user gets at the device: by its group if that may open it.
fn permission(device: &Path, host: &Host) -> String {
    let access_list = format!("ask an administrator for: setfacl -m u:$USER:rw {}", device.display());
    let Ok(metadata) = device.metadata() else { return access_list };
    if metadata.mode() & 0o060 != 0o060 || metadata.gid() == 0 {
        return access_list;
    }
    match group_name(host, metadata.gid()) {
        Some(group) => format!("sudo usermod -aG {group} $USER, then log in anew"),
        None => access_list,
    }
}

/// group(5): name:password:gid:members.
fn group_name(host: &Host, gid: u32) -> Option<String> {
    let text = std::fs::read_to_string(host.root.join("etc/group")).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::super::kvm_probe::Failure;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn kvm_is_never_missed_and_always_explained() {
        let options = Options::default();
        let failures = vec![Failure { instruction: "int3".into(), reason: "exit reason 17".into() }];
        for kvm in [
            Kvm::Absent,
            Kvm::Denied,
            Kvm::Unusable { reason: "x".into() },
            Kvm::NoKernel { failures },
            Kvm::RunsKernels,
        ] {
            let section = examine(&options, &kvm);
            let item = &section.items[1];
            assert!(section.holds());
            assert_eq!(item.status == Status::Ok, kvm.runs_kernels());
            assert_eq!(item.advice.is_none(), kvm.runs_kernels());
            assert!(item.finding.starts_with(if kvm.runs_kernels() { "yes" } else { "no" }));
        }
    }

    #[test]
    fn the_devices_group_is_named_if_it_helps() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/group"), "root:x:0:\nkvm:x:104:user\n").unwrap();
        let host = Host { path: Default::default(), root: root.path().to_owned() };
        assert_eq!(group_name(&host, 104).as_deref(), Some("kvm"));
        assert_eq!(group_name(&host, 105), None);

        let device = root.path().join("kvm");
        std::fs::write(&device, "").unwrap();
        std::fs::set_permissions(&device, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(permission(&device, &host).contains("setfacl"), "the group may not open it");
    }
}
