// opencl: geglu 8x16x32 float32 int8, version 3 of the family
__kernel void main_kernel(__global float* restrict geglu_gate_ptr, __global float* restrict p0_ptr, __global char* restrict p1_ptr, __global float* restrict p2_ptr, __global float* restrict p3_ptr) {
  float16 _ptr[16];
  float16 _ptr_1[32];
  float16 _ptr_2[16];
  int v = 0;
  int v_1 = 0;
  for (int v_2 = 0; v_2 < 8; ++v_2) {
    for (int v_3 = 0; v_3 < 2; ++v_3) {
      _ptr[((v_2 * 2) + v_3)] = ((float16)(0.000000e+00f));
    }
  }
  for (int v_4 = 0; v_4 < 16; ++v_4) {
    int cse_v1 = (v_4 * 32);
    int cse_v2 = (v_4 * 2);
    _ptr_1[(v_4 * 2)] = (convert_float16(vload16(0, p1_ptr + (v_4 * 32))));
    _ptr_1[((v_4 * 2) + 1)] = (convert_float16(vload16(0, p1_ptr + ((v_4 * 32) + 16))));
  }
  int v_5 = 0;
  int v_6 = 0;
  int v_7 = 0;
  int v_8 = 1;
  int v_9 = 0;
  int v_10 = 2;
  int v_11 = 0;
  int v_12 = 3;
  int v_13 = 0;
  int v_14 = 4;
  int v_15 = 0;
  int v_16 = 5;
  int v_17 = 0;
  int v_18 = 6;
  int v_19 = 0;
  int v_20 = 7;
  _ptr_2[0] = _ptr[0];
  _ptr_2[1] = _ptr[1];
  _ptr_2[2] = _ptr[2];
  _ptr_2[3] = _ptr[3];
  _ptr_2[4] = _ptr[4];
  _ptr_2[5] = _ptr[5];
  _ptr_2[6] = _ptr[6];
  _ptr_2[7] = _ptr[7];
  _ptr_2[8] = _ptr[8];
  _ptr_2[9] = _ptr[9];
  _ptr_2[10] = _ptr[10];
  _ptr_2[11] = _ptr[11];
  _ptr_2[12] = _ptr[12];
  _ptr_2[13] = _ptr[13];
  _ptr_2[14] = _ptr[14];
  _ptr_2[15] = _ptr[15];
  for (int v_21 = 0; v_21 < 16; ++v_21) {
    int cse_v3 = (v_21 * 2);
    _ptr_2[0] = (_ptr_2[0] + (((float16)(p0_ptr[v_21])) * _ptr_1[(v_21 * 2)]));
    int cse_v12 = ((v_21 * 2) + 1);
    _ptr_2[1] = (_ptr_2[1] + (((float16)(p0_ptr[v_21])) * _ptr_1[((v_21 * 2) + 1)]));
    int cse_v4 = (v_21 + 16);
    _ptr_2[2] = (_ptr_2[2] + (((float16)(p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)])) * _ptr_1[(v_21 * 2)]));
    _ptr_2[3] = (_ptr_2[3] + (((float16)(p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)], p0_ptr[(v_21 + 16)])) * _ptr_1[((v_21 * 2) + 1)]));
    int cse_v5 = (v_21 + 32);
    _ptr_2[4] = (_ptr_2[4] + (((float16)(p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)])) * _ptr_1[(v_21 * 2)]));
    _ptr_2[5] = (_ptr_2[5] + (((float16)(p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)], p0_ptr[(v_21 + 32)])) * _ptr_1[((v_21 * 2) + 1)]));
    int cse_v6 = (v_21 + 48);
    _ptr_2[6] = (_ptr_2[6] + (((float16)(p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)])) * _ptr_1[(v_21 * 2)]));
    _ptr_2[7] = (_ptr_2[7] + (((float16)(p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)], p0_ptr[(v_21 + 48)])) * _ptr_1[((v_21 * 2) + 1)]));
    int cse_v7 = (v_21 + 64);
    _ptr_2[8] = (_ptr_2[8] + (((float16)(p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)])) * _ptr_1[(v_21 * 2)]));
    _ptr_2[9] = (_ptr_2[9] + (((float16)(p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)], p0_ptr[(v_21 + 64)])) * _ptr_1[((v_21 * 2) + 1)]));
    int cse_v8 = (v_21 + 80);
    _ptr_2[10] = (_ptr_2[10] + (((float16)(p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)])) * _ptr_1[(v_21 * 2)]));
    _ptr_2[11] = (_ptr_2[11] + (((float16)(p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)], p0_ptr[(v_21 + 80)])) * _ptr_1[((v_21 * 2) + 1)]));
    int cse_v9 = (v_21 + 96);
    _ptr_2[12] = (_ptr_2[12] + (((float16)(p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)])) * _ptr_1[(v_21 * 2)]));
    _ptr_2[13] = (_ptr_2[13] + (((float16)(p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)], p0_ptr[(v_21 + 96)])) * _ptr_1[((v_21 * 2) + 1)]));
    int cse_v10 = (v_21 + 112);
    _ptr_2[14] = (_ptr_2[14] + (((float16)(p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)])) * _ptr_1[(v_21 * 2)]));
    _ptr_2[15] = (_ptr_2[15] + (((float16)(p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)], p0_ptr[(v_21 + 112)])) * _ptr_1[((v_21 * 2) + 1)]));
  }
  _ptr[0] = _ptr_2[0];
  _ptr[1] = _ptr_2[1];
  _ptr[2] = _ptr_2[2];
  _ptr[3] = _ptr_2[3];
  _ptr[4] = _ptr_2[4];
  _ptr[5] = _ptr_2[5];
  _ptr[6] = _ptr_2[6];
  _ptr[7] = _ptr_2[7];
  _ptr[8] = _ptr_2[8];
  _ptr[9] = _ptr_2[9];
  _ptr[10] = _ptr_2[10];
  _ptr[11] = _ptr_2[11];
  _ptr[12] = _ptr_2[12];
  _ptr[13] = _ptr_2[13];
  _ptr[14] = _ptr_2[14];
  _ptr[15] = _ptr_2[15];
  for (int v_22 = 0; v_22 < 8; ++v_22) {
    int cse_v11 = (v_22 * 2);
    int cse_v13 = ((v_22 * 2) + 1);
      float16 v_ = (select(((((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16)) * ((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(-5.000000e-01f))), ((float16)(-8.700000e+01f)), (convert_int16((((((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16)) * ((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(-5.000000e-01f))) < ((float16)(-8.700000e+01f)))))) * ((float16)(1.442695e+00f))) + ((float16)(9.000000e+06f));
      float16 v__1 = (select(((((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16)) * ((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(-5.000000e-01f))), ((float16)(-8.700000e+01f)), (convert_int16((((((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16)) * ((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(-5.000000e-01f))) < ((float16)(-8.700000e+01f)))))) * ((float16)(1.442695e+00f))) + ((float16)(9.000000e+06f));
      float16 v__2 = (select(((((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16)) * ((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(-5.000000e-01f))), ((float16)(-8.700000e+01f)), (convert_int16((((((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16)) * ((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(-5.000000e-01f))) < ((float16)(-8.700000e+01f)))))) * ((float16)(1.442695e+00f))) + ((float16)(9.000000e+06f));
      float16 v__3 = (select(((((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16)) * ((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(-5.000000e-01f))), ((float16)(-8.700000e+01f)), (convert_int16((((((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16)) * ((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(-5.000000e-01f))) < ((float16)(-8.700000e+01f)))))) * ((float16)(1.442695e+00f))) + ((float16)(9.000000e+06f));
      float16 v__4 = (select(((((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16)) * ((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(-5.000000e-01f))), ((float16)(-8.700000e+01f)), (convert_int16((((((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16)) * ((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(-5.000000e-01f))) < ((float16)(-8.700000e+01f)))))) * ((float16)(1.442695e+00f))) + ((float16)(9.000000e+06f));
        float16 v__5 = (select(((((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16)) * ((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(-5.000000e-01f))), ((float16)(-8.700000e+01f)), (convert_int16((((((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16)) * ((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(-5.000000e-01f))) < ((float16)(-8.700000e+01f)))))) * ((float16)(1.442695e+00f))) + ((float16)(9.000000e+06f));
      int16 v__6 = ((*(int16 *)(&(v__5))) - ((int16)(1258902465))) << ((int16)(23));
    vstore16((((_ptr[(v_22 * 2)] * vload16(0, p2_ptr + 0)) + vload16(0, p3_ptr + 0)) * (max(((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16)), ((float16)(0.000000e+00f))) - (fabs(((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * (((((((((((((float16)(1.061405e+00f)) * (((float16)(1.000000e+00f)) / (((float16)(1.000000e+00f)) + (fabs(((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(2.316419e-01f)))))) + ((float16)(-1.453152e+00f))) * (((float16)(1.000000e+00f)) / (((float16)(1.000000e+00f)) + (fabs(((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(2.316419e-01f)))))) + ((float16)(1.421414e+00f))) * (((float16)(1.000000e+00f)) / (((float16)(1.000000e+00f)) + (fabs(((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(2.316419e-01f)))))) + ((float16)(-2.844967e-01f))) * (((float16)(1.000000e+00f)) / (((float16)(1.000000e+00f)) + (fabs(((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(2.316419e-01f)))))) + ((float16)(2.548296e-01f))) * (((float16)(1.000000e+00f)) / (((float16)(1.000000e+00f)) + (fabs(((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(2.316419e-01f)))))) * (((((((((((((float16)(1.339086e-03f)) * ((select(((((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16)) * ((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(-5.000000e-01f))), ((float16)(-8.700000e+01f)), (convert_int16((((((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16)) * ((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(-5.000000e-01f))) < ((float16)(-8.700000e+01f)))))) * ((float16)(1.442695e+00f))) - (convert_float16(((*(int16 *)(&(v_))) - ((int16)(1258902592))))))) + ((float16)(9.676032e-03f))) * ((select(((((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16)) * ((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(-5.000000e-01f))), ((float16)(-8.700000e+01f)), (convert_int16((((((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16)) * ((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(-5.000000e-01f))) < ((float16)(-8.700000e+01f)))))) * ((float16)(1.442695e+00f))) - (convert_float16(((*(int16 *)(&(v__1))) - ((int16)(1258902592))))))) + ((float16)(5.550357e-02f))) * ((select(((((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16)) * ((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(-5.000000e-01f))), ((float16)(-8.700000e+01f)), (convert_int16((((((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16)) * ((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(-5.000000e-01f))) < ((float16)(-8.700000e+01f)))))) * ((float16)(1.442695e+00f))) - (convert_float16(((*(int16 *)(&(v__2))) - ((int16)(1258902592))))))) + ((float16)(2.402211e-01f))) * ((select(((((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16)) * ((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(-5.000000e-01f))), ((float16)(-8.700000e+01f)), (convert_int16((((((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16)) * ((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(-5.000000e-01f))) < ((float16)(-8.700000e+01f)))))) * ((float16)(1.442695e+00f))) - (convert_float16(((*(int16 *)(&(v__3))) - ((int16)(1258902592))))))) + ((float16)(6.931472e-01f))) * ((select(((((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16)) * ((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(-5.000000e-01f))), ((float16)(-8.700000e+01f)), (convert_int16((((((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16)) * ((_ptr[((v_22 * 2) + 1)] * vload16(0, p2_ptr + 16)) + vload16(0, p3_ptr + 16))) * ((float16)(-5.000000e-01f))) < ((float16)(-8.700000e+01f)))))) * ((float16)(1.442695e+00f))) - (convert_float16(((*(int16 *)(&(v__4))) - ((int16)(1258902592))))))) + ((float16)(1.000000e+00f))) * (*(float16 *)(&(v__6))))) * ((float16)(5.000000e-01f)))))), 0, geglu_gate_ptr + (v_22 * 16));
  }
}

