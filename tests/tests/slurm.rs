//! Who held what, through a real Slurm, the real agent and the real collector.

use weighbridge_tests::slurm::Slurm;

#[test]
fn a_prolog_and_an_epilog_run_around_a_job() {
    let began = weighbridge_tests::wait::instant();
    let slurm = Slurm::start();
    eprintln!("up after {:?}", began.elapsed());
    let gate = slurm.gate("first");
    let job = slurm.submit("physics", &["--gres=gpu:2"], &gate.command());
    slurm.wait_for_events("prolog_slurmd", job, 1);
    slurm.wait_for(job, "RUNNING");
    gate.open();
    slurm.wait_for_events("epilog_slurmd", job, 1);
    eprintln!("{:?} {}", slurm.events(), slurm.sacct(&["-P", "-X"]));
    drop(slurm);
    eprintln!("down after {:?}", began.elapsed());
}
