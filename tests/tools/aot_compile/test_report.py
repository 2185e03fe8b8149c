"""Reports on a small program written by hand, and on errors of the compiler."""

from borrow_det.tools.aot_compile import report

# Layouts, tuples, comments and asynchronous pairs as TPU modules print them.
PROGRAM = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8]{0:T(128)})->()}

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %add = f32[]{:T(128)} add(%a, %b)
}

%shift (x: u8[16]) -> u8[16] {
  %x = u8[16]{0:T(128)(4,1)} parameter(0)
  ROOT %permute = u8[16]{0:T(128)(4,1)} collective-permute(%x), channel_id=7
}

%again (state: (u8[16], pred[])) -> pred[] {
  %state = (u8[16]{0}, pred[]{:T(512)}) parameter(0)
  %go = pred[]{:T(512)} get-tuple-element(%state), index=1
  %number = u32[]{:T(128)} convert(%go)
  %any = u32[]{:T(128)} all-reduce(%number), channel_id=1, to_apply=%sum
  ROOT %true = pred[]{:T(512)} compare(%any, %any), direction=EQ
}

%body (state: (u8[16], pred[])) -> (u8[16], pred[]) {
  %state = (u8[16]{0}, pred[]{:T(512)}) parameter(0)
  %x = u8[16]{0} get-tuple-element(%state), index=0
  %y = u8[16]{0} fusion(%x), kind=kCustom, calls=%shift, backend_config={"window_config":{"estimated_cycles":"70"}}
  %go = pred[]{:T(512)} get-tuple-element(%state), index=1
  ROOT %next = (u8[16]{0}, pred[]{:T(512)}) tuple(%y, %go)
}

%all-reduce-scatter.1 (p: f32[8]) -> f32[2] {
  %p = f32[8]{0:T(128)} parameter(0)
  %summed = f32[8]{0:T(128)} all-reduce(%p), channel_id=1, to_apply=%sum
  ROOT %own = f32[2]{0:T(128)} dynamic-slice(%summed, %place), dynamic_slice_sizes={2}
}

%beside.1 (p: s32[2]) -> s32[8] {
  %p = s32[2]{0:T(128)} parameter(0)
  ROOT %piece.1 = s32[8]{0:T(128)} all-gather(%p), channel_id=9, dimensions={0}, frontend_attributes={chain_id="0"}
}

%beside.2 (p: s32[2]) -> s32[8] {
  %p = s32[2]{0:T(128)} parameter(0)
  ROOT %piece.2 = s32[8]{0:T(128)} all-gather(%p), channel_id=9, dimensions={0}, frontend_attributes={chain_id="0"}
}

ENTRY %main (p0: f32[8], p1: bf16[3,5]) -> f32[] {
  %p0 = f32[8]{0:T(128)} parameter(0)
  %p1 = bf16[3,5]{1,0:T(8,128)(2,1)} parameter(1)
  %both = (f32[8]{0:T(128)S(1)}, /*index=1*/bf16[3,5]{1,0:T(8,128)(2,1)}) all-reduce(%p0, %p1), to_apply=%sum
  %started = (f32[8]{0}, f32[32]{0:T(256)}) all-gather-start(%p0), channel_id=3, dimensions={0}
  %gathered = f32[32]{0:T(256)} all-gather-done(%started)
  %part = f32[2]{0} reduce-scatter(%p0), channel_id=4, dimensions={0}, to_apply=%sum
  %reduced = f32[2]{0} all-reduce-start(%part), channel_id=5, to_apply=%sum
  %twice = f32[2]{0} all-reduce-done(%reduced)
  %swapped = f32[8]{0} all-to-all(%p0), channel_id=6, dimensions={0}
  %all-reduce.note = f32[8]{0} add(%p0, %swapped), metadata={op_name="all-gather(x)"}, backend_config={"window_config":{"estimated_cycles":"1200","iteration_bounds":["4"]}}
  %loop = (u8[16]{0}, pred[]) while(%start), condition=%again, body=%body
  ROOT %result = f32[] constant(0)
}
"""  # noqa: E501


def test_collectives_are_counted_with_their_bytes():
    assert report.collectives(PROGRAM) == {
        # 8 numbers of each of 4 devices are gathered, and 8 in two parts of one chain.
        "all-gather": {"count": 2, "bytes": 4 * 32 + 4 * 8, "in_loops": 0},
        "all-reduce": {"count": 3, "bytes": 4 * 8 + 2 * 15 + 4 * 2 + 4, "in_loops": 1},
        "all-to-all": {"count": 1, "bytes": 4 * 8, "in_loops": 0},
        # The body of the loop calls its computation.
        "collective-permute": {"count": 1, "bytes": 16, "in_loops": 1},
        # 8 numbers are scattered, and 8 in a fused sum.
        "reduce-scatter": {"count": 2, "bytes": 2 * 4 * 8, "in_loops": 0},
    }


def test_cycles_are_added_up_in_total_and_in_loops():
    assert report.cycles(PROGRAM) == {"total": 1270, "in_loops": 70}


def test_a_program_of_one_device_has_no_collectives():
    lines = PROGRAM.splitlines()
    assert report.collectives("\n".join(lines[:7])) == {}


def test_sizes_are_parsed_from_messages_of_the_compiler():
    of_temporaries = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for "
        "HLO temporaries (16.90G) exceeds available HBM (15.75G)."
    )
    available = round(15.75 * 2**30)
    assert report.exhausted(of_temporaries) == {
        "temporaries": round(16.9 * 2**30),
        "total": round(16.9 * 2**30),
        "available": available,
    }
    in_all = (
        "RESOURCE_EXHAUSTED: Ran out of memory. Used 512.5M of 15.75G hbm. Exceeded"
    )
    assert report.exhausted(in_all) == {
        "total": round(512.5 * 2**20),
        "available": available,
    }
    assert report.exhausted("INTERNAL: of 3 hbm") is None
