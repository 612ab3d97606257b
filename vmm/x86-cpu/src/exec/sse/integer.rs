//! Integer SIMD on XMM registers: one host instruction each.

use super::host::*;
use super::moves::{combine, pick, plain};
use super::operand::{Fixed128, Immediate, M128, Part16, Part32, Part64};
use super::{Choice, Gate};
use crate::block::OpFn;
use crate::world::World;
use iced_x86::Code;

plain! {
    And |d, s, _| d & s;
    AndNot |d, s, _| !d & s;
    Or |d, s, _| d | s;
    Xor |d, s, _| d ^ s;
    /// PSRLDQ.
    ShiftRightBytes |d, _, i| if i < 16 { d >> (u32::from(i) * 8) } else { 0 };
    /// PSLLDQ.
    ShiftLeftBytes |d, _, i| if i < 16 { d << (u32::from(i) * 8) } else { 0 };
}

pub(super) fn lower<W: World>(code: Code, memory: bool) -> Choice<W> {
    let run: OpFn<W> = match code {
        Code::Pand_xmm_xmmm128 | Code::Andps_xmm_xmmm128 | Code::Andpd_xmm_xmmm128 => {
            pick::<W, And, M128>(memory)
        }
        Code::Pandn_xmm_xmmm128 | Code::Andnps_xmm_xmmm128 | Code::Andnpd_xmm_xmmm128 => {
            pick::<W, AndNot, M128>(memory)
        }
        Code::Por_xmm_xmmm128 | Code::Orps_xmm_xmmm128 | Code::Orpd_xmm_xmmm128 => {
            pick::<W, Or, M128>(memory)
        }
        Code::Pxor_xmm_xmmm128 | Code::Xorps_xmm_xmmm128 | Code::Xorpd_xmm_xmmm128 => {
            pick::<W, Xor, M128>(memory)
        }
        Code::Paddb_xmm_xmmm128 => pick::<W, Paddb, M128>(memory),
        Code::Paddw_xmm_xmmm128 => pick::<W, Paddw, M128>(memory),
        Code::Paddd_xmm_xmmm128 => pick::<W, Paddd, M128>(memory),
        Code::Paddq_xmm_xmmm128 => pick::<W, Paddq, M128>(memory),
        Code::Psubb_xmm_xmmm128 => pick::<W, Psubb, M128>(memory),
        Code::Psubw_xmm_xmmm128 => pick::<W, Psubw, M128>(memory),
        Code::Psubd_xmm_xmmm128 => pick::<W, Psubd, M128>(memory),
        Code::Psubq_xmm_xmmm128 => pick::<W, Psubq, M128>(memory),
        Code::Paddsb_xmm_xmmm128 => pick::<W, Paddsb, M128>(memory),
        Code::Paddsw_xmm_xmmm128 => pick::<W, Paddsw, M128>(memory),
        Code::Paddusb_xmm_xmmm128 => pick::<W, Paddusb, M128>(memory),
        Code::Paddusw_xmm_xmmm128 => pick::<W, Paddusw, M128>(memory),
        Code::Psubsb_xmm_xmmm128 => pick::<W, Psubsb, M128>(memory),
        Code::Psubsw_xmm_xmmm128 => pick::<W, Psubsw, M128>(memory),
        Code::Psubusb_xmm_xmmm128 => pick::<W, Psubusb, M128>(memory),
        Code::Psubusw_xmm_xmmm128 => pick::<W, Psubusw, M128>(memory),
        Code::Pminub_xmm_xmmm128 => pick::<W, Pminub, M128>(memory),
        Code::Pminsw_xmm_xmmm128 => pick::<W, Pminsw, M128>(memory),
        Code::Pminsb_xmm_xmmm128 => pick::<W, Pminsb, M128>(memory),
        Code::Pminsd_xmm_xmmm128 => pick::<W, Pminsd, M128>(memory),
        Code::Pminuw_xmm_xmmm128 => pick::<W, Pminuw, M128>(memory),
        Code::Pminud_xmm_xmmm128 => pick::<W, Pminud, M128>(memory),
        Code::Pmaxub_xmm_xmmm128 => pick::<W, Pmaxub, M128>(memory),
        Code::Pmaxsw_xmm_xmmm128 => pick::<W, Pmaxsw, M128>(memory),
        Code::Pmaxsb_xmm_xmmm128 => pick::<W, Pmaxsb, M128>(memory),
        Code::Pmaxsd_xmm_xmmm128 => pick::<W, Pmaxsd, M128>(memory),
        Code::Pmaxuw_xmm_xmmm128 => pick::<W, Pmaxuw, M128>(memory),
        Code::Pmaxud_xmm_xmmm128 => pick::<W, Pmaxud, M128>(memory),
        Code::Pavgb_xmm_xmmm128 => pick::<W, Pavgb, M128>(memory),
        Code::Pavgw_xmm_xmmm128 => pick::<W, Pavgw, M128>(memory),
        Code::Psadbw_xmm_xmmm128 => pick::<W, Psadbw, M128>(memory),
        Code::Pmulhuw_xmm_xmmm128 => pick::<W, Pmulhuw, M128>(memory),
        Code::Pmulhw_xmm_xmmm128 => pick::<W, Pmulhw, M128>(memory),
        Code::Pmullw_xmm_xmmm128 => pick::<W, Pmullw, M128>(memory),
        Code::Pmulld_xmm_xmmm128 => pick::<W, Pmulld, M128>(memory),
        Code::Pmuludq_xmm_xmmm128 => pick::<W, Pmuludq, M128>(memory),
        Code::Pmuldq_xmm_xmmm128 => pick::<W, Pmuldq, M128>(memory),
        Code::Pmaddwd_xmm_xmmm128 => pick::<W, Pmaddwd, M128>(memory),
        Code::Pmaddubsw_xmm_xmmm128 => pick::<W, Pmaddubsw, M128>(memory),
        Code::Pmulhrsw_xmm_xmmm128 => pick::<W, Pmulhrsw, M128>(memory),
        Code::Pcmpeqb_xmm_xmmm128 => pick::<W, Pcmpeqb, M128>(memory),
        Code::Pcmpeqw_xmm_xmmm128 => pick::<W, Pcmpeqw, M128>(memory),
        Code::Pcmpeqd_xmm_xmmm128 => pick::<W, Pcmpeqd, M128>(memory),
        Code::Pcmpeqq_xmm_xmmm128 => pick::<W, Pcmpeqq, M128>(memory),
        Code::Pcmpgtb_xmm_xmmm128 => pick::<W, Pcmpgtb, M128>(memory),
        Code::Pcmpgtw_xmm_xmmm128 => pick::<W, Pcmpgtw, M128>(memory),
        Code::Pcmpgtd_xmm_xmmm128 => pick::<W, Pcmpgtd, M128>(memory),
        Code::Pcmpgtq_xmm_xmmm128 => pick::<W, Pcmpgtq, M128>(memory),
        Code::Punpcklbw_xmm_xmmm128 => pick::<W, Punpcklbw, M128>(memory),
        Code::Punpcklwd_xmm_xmmm128 => pick::<W, Punpcklwd, M128>(memory),
        Code::Punpckldq_xmm_xmmm128 => pick::<W, Punpckldq, M128>(memory),
        Code::Punpcklqdq_xmm_xmmm128 => pick::<W, Punpcklqdq, M128>(memory),
        Code::Punpckhbw_xmm_xmmm128 => pick::<W, Punpckhbw, M128>(memory),
        Code::Punpckhwd_xmm_xmmm128 => pick::<W, Punpckhwd, M128>(memory),
        Code::Punpckhdq_xmm_xmmm128 => pick::<W, Punpckhdq, M128>(memory),
        Code::Punpckhqdq_xmm_xmmm128 => pick::<W, Punpckhqdq, M128>(memory),
        Code::Packsswb_xmm_xmmm128 => pick::<W, Packsswb, M128>(memory),
        Code::Packssdw_xmm_xmmm128 => pick::<W, Packssdw, M128>(memory),
        Code::Packuswb_xmm_xmmm128 => pick::<W, Packuswb, M128>(memory),
        Code::Packusdw_xmm_xmmm128 => pick::<W, Packusdw, M128>(memory),
        Code::Phaddw_xmm_xmmm128 => pick::<W, Phaddw, M128>(memory),
        Code::Phaddd_xmm_xmmm128 => pick::<W, Phaddd, M128>(memory),
        Code::Phaddsw_xmm_xmmm128 => pick::<W, Phaddsw, M128>(memory),
        Code::Phsubw_xmm_xmmm128 => pick::<W, Phsubw, M128>(memory),
        Code::Phsubd_xmm_xmmm128 => pick::<W, Phsubd, M128>(memory),
        Code::Phsubsw_xmm_xmmm128 => pick::<W, Phsubsw, M128>(memory),
        Code::Psignb_xmm_xmmm128 => pick::<W, Psignb, M128>(memory),
        Code::Psignw_xmm_xmmm128 => pick::<W, Psignw, M128>(memory),
        Code::Psignd_xmm_xmmm128 => pick::<W, Psignd, M128>(memory),
        Code::Pabsb_xmm_xmmm128 => pick::<W, Pabsb, M128>(memory),
        Code::Pabsw_xmm_xmmm128 => pick::<W, Pabsw, M128>(memory),
        Code::Pabsd_xmm_xmmm128 => pick::<W, Pabsd, M128>(memory),
        Code::Pshufb_xmm_xmmm128 => pick::<W, Pshufb, M128>(memory),
        Code::Phminposuw_xmm_xmmm128 => pick::<W, Phminposuw, M128>(memory),
        Code::Psrlw_xmm_xmmm128 => pick::<W, Psrlw, Fixed128>(memory),
        Code::Psrld_xmm_xmmm128 => pick::<W, Psrld, Fixed128>(memory),
        Code::Psrlq_xmm_xmmm128 => pick::<W, Psrlq, Fixed128>(memory),
        Code::Psraw_xmm_xmmm128 => pick::<W, Psraw, Fixed128>(memory),
        Code::Psrad_xmm_xmmm128 => pick::<W, Psrad, Fixed128>(memory),
        Code::Psllw_xmm_xmmm128 => pick::<W, Psllw, Fixed128>(memory),
        Code::Pslld_xmm_xmmm128 => pick::<W, Pslld, Fixed128>(memory),
        Code::Psllq_xmm_xmmm128 => pick::<W, Psllq, Fixed128>(memory),
        Code::Pmovsxbw_xmm_xmmm64 => pick::<W, Pmovsxbw, Part64>(memory),
        Code::Pmovsxbd_xmm_xmmm32 => pick::<W, Pmovsxbd, Part32>(memory),
        Code::Pmovsxbq_xmm_xmmm16 => pick::<W, Pmovsxbq, Part16>(memory),
        Code::Pmovsxwd_xmm_xmmm64 => pick::<W, Pmovsxwd, Part64>(memory),
        Code::Pmovsxwq_xmm_xmmm32 => pick::<W, Pmovsxwq, Part32>(memory),
        Code::Pmovsxdq_xmm_xmmm64 => pick::<W, Pmovsxdq, Part64>(memory),
        Code::Pmovzxbw_xmm_xmmm64 => pick::<W, Pmovzxbw, Part64>(memory),
        Code::Pmovzxbd_xmm_xmmm32 => pick::<W, Pmovzxbd, Part32>(memory),
        Code::Pmovzxbq_xmm_xmmm16 => pick::<W, Pmovzxbq, Part16>(memory),
        Code::Pmovzxwd_xmm_xmmm64 => pick::<W, Pmovzxwd, Part64>(memory),
        Code::Pmovzxwq_xmm_xmmm32 => pick::<W, Pmovzxwq, Part32>(memory),
        Code::Pmovzxdq_xmm_xmmm64 => pick::<W, Pmovzxdq, Part64>(memory),
        Code::Unpcklps_xmm_xmmm128 => pick::<W, Unpcklps, M128>(memory),
        Code::Unpckhps_xmm_xmmm128 => pick::<W, Unpckhps, M128>(memory),
        Code::Unpcklpd_xmm_xmmm128 => pick::<W, Unpcklpd, M128>(memory),
        Code::Unpckhpd_xmm_xmmm128 => pick::<W, Unpckhpd, M128>(memory),
        Code::Cvtdq2pd_xmm_xmmm64 => pick::<W, Cvtdq2pd, Part64>(memory),
        Code::Psrlw_xmm_imm8 => combine::<W, Psrlw, Immediate>,
        Code::Psrld_xmm_imm8 => combine::<W, Psrld, Immediate>,
        Code::Psrlq_xmm_imm8 => combine::<W, Psrlq, Immediate>,
        Code::Psraw_xmm_imm8 => combine::<W, Psraw, Immediate>,
        Code::Psrad_xmm_imm8 => combine::<W, Psrad, Immediate>,
        Code::Psllw_xmm_imm8 => combine::<W, Psllw, Immediate>,
        Code::Pslld_xmm_imm8 => combine::<W, Pslld, Immediate>,
        Code::Psllq_xmm_imm8 => combine::<W, Psllq, Immediate>,
        Code::Psrldq_xmm_imm8 => combine::<W, ShiftRightBytes, Immediate>,
        Code::Pslldq_xmm_imm8 => combine::<W, ShiftLeftBytes, Immediate>,
        _ => return None,
    };
    Some((Gate::Sse, run))
}
